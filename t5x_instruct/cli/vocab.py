"""`vocab`: trains a SentencePiece vocabulary on the texts of a mixture."""

import argparse
from pathlib import Path

from t5x_instruct.cli.data_arguments import add_mixture_arguments, module_options, modules_of
from t5x_instruct.cli.output import add_json_argument, print_table
from t5x_instruct.common.errors import ConfigError

COLUMNS = ("vocabulary", "ids", "texts", "bytes", "bytes_per_token")
MEASURED_TEXTS = 5000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `vocab`."""
    add_mixture_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the vocabulary goes")
    parser.add_argument(
        "--vocab_size", type=int, default=8000, metavar="N", help="ids, without the sentinels (default: 8000)"
    )
    parser.add_argument(
        "--extra_ids", type=int, default=0, metavar="N", help="sentinels to add; T5 has 100 (default: 0)"
    )
    parser.add_argument("--model_type", choices=("unigram", "bpe"), default="unigram", help="default: unigram")
    parser.add_argument(
        "--no_byte_fallback",
        dest="byte_fallback",
        action="store_false",
        help="make what is not in the vocabulary the unknown id instead of bytes",
    )
    parser.add_argument(
        "--num_examples",
        type=int,
        default=100_000,
        metavar="N",
        help="training examples to learn from, in the mixture's proportions (default: 100000)",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Prepares the mixture as bytes in a child process, trains the vocabulary and prints its figures."""
    problems = [
        f"--{name} {getattr(args, name)}: must be at least {least}"
        for name, least in (("vocab_size", 1), ("extra_ids", 0), ("num_examples", 1))
        if getattr(args, name) < least
    ]
    if problems:
        raise ConfigError(problems)
    from t5x_instruct.data.prepare_spec import PrepareSpec
    from t5x_instruct.data.prepared import ensure_prepared
    from t5x_instruct.data.vocabulary_training import refuse_existing, texts_of, train_vocabulary
    from t5x_instruct.runs.settings import default_prepared_dir

    refuse_existing(args.output)
    mixture = ensure_prepared(
        PrepareSpec(
            mixture=args.mixture,
            modules=modules_of(args),
            vocabulary="bytes",
            hold_out=tuple(args.hold_out),
            seed=args.seed,
            root=args.prepared_dir or default_prepared_dir(),
            module_options=module_options(args),
        )
    )
    texts = texts_of(mixture, args.num_examples, args.seed)
    vocabulary = train_vocabulary(
        texts,
        args.output,
        vocab_size=args.vocab_size,
        extra_ids=args.extra_ids,
        model_type=args.model_type,
        byte_fallback=args.byte_fallback,
    )
    measured = texts[:MEASURED_TEXTS]
    tokens = sum(len(vocabulary.encode(text)) for text in measured)
    row = {
        "vocabulary": str(args.output),
        "ids": vocabulary.vocab_size,
        "texts": len(texts),
        "bytes": sum(len(text.encode()) for text in texts),
        "bytes_per_token": round(sum(len(text.encode()) for text in measured) / tokens, 2),
    }
    print_table(COLUMNS, [row], args.json)
    return 0
