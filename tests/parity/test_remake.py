"""Makes the golden files again and compares; run with ``pytest -m parity`` (extra `parity`)."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

# Not from `goldens`, which imports the package: here torch is all that is needed.
GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.mark.parity
def test_made_again_they_are_the_same(tmp_path: Path) -> None:
    for module in ("torch", "transformers"):
        pytest.importorskip(module, reason=f"{module} is not installed: extra `parity`")
    command = [sys.executable, "-m", "tests.parity.make", "--out", str(tmp_path)]
    subprocess.run(command, check=True, cwd=GOLDEN.parents[1])
    stored = sorted(path.name for path in GOLDEN.glob("*.npz"))
    assert stored == sorted(path.name for path in tmp_path.glob("*.npz"))
    for name in stored:
        with (
            np.load(GOLDEN / name, allow_pickle=False) as old,
            np.load(tmp_path / name, allow_pickle=False) as new,
        ):
            assert set(old) == set(new)
            # Tokens are compared where they are no tie.
            clear = {"generated": old["margins"] > 1e-3}
            if "beam/gaps" in old:
                clear["beam/sequences"] = old["beam/gaps"] > 1e-3
            for key in old:
                if old[key].dtype.kind != "f":
                    pick = clear.get(key, ...)
                    np.testing.assert_array_equal(new[key][pick], old[key][pick], err_msg=key)
                else:
                    np.testing.assert_allclose(new[key], old[key], rtol=1e-4, atol=1e-4, err_msg=key)
