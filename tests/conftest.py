"""Every test sees 8 CPU devices and a compilation cache that outlives the run."""

import os
from pathlib import Path

_CACHE = Path(__file__).parents[1] / ".cache"

os.environ["JAX_PLATFORMS"] = "cpu"
# LLVM optimises for half of the time of compiling, which is most of what tests do; that comes after everything that
# is tested here. Flags that are set already come last, and win.
_FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{_FLAGS} {os.environ.get('XLA_FLAGS', '')}".strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from hypothesis import settings  # noqa: E402

# A deadline would make a test depend on how busy the machine is; the examples of a run are the same every time.
settings.register_profile("house", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("house")

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def prepared_root(tmp_path_factory):
    """One folder of prepared data for all tests that train on the starter tasks."""
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="session")
def bucket():
    """`gs://test` on this machine, for this process and its children; the emulator's storage."""
    from tests.bucket_server import bucket_server

    with bucket_server("test") as (url, storage), pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
        yield storage
