"""`prepare`: renders and tokenizes a mixture into files that training reads."""

import argparse
from typing import Any

from t5x_instruct.cli.data_arguments import (
    add_mixture_arguments,
    add_vocabulary_arguments,
    chosen_prompt_format,
    module_options,
    modules_of,
)
from t5x_instruct.cli.output import add_json_argument, print_table
from t5x_instruct.common.quiet_tensorflow import import_tensorflow

COLUMNS = ("task", "cluster", "role", "split", "examples", "variants", "inputs_tokens", "targets_tokens", "refused")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `prepare`."""
    add_mixture_arguments(parser)
    add_vocabulary_arguments(parser, required=True)
    parser.add_argument(
        "--split", action="append", metavar="S", help="split to render, repeatable (default: train and validation)"
    )
    parser.add_argument(
        "--variants", type=int, default=1, metavar="V", help="renderings of each training example (default: 1)"
    )
    parser.add_argument(
        "--exemplars", action="store_true", help="also the training examples of what is held out, for runs with SHOTS"
    )
    parser.add_argument(
        "--templates",
        choices=("drawn", "each"),
        default="drawn",
        help="each: what is held out with every template, for runs with EVAL_TEMPLATES='each' (default: drawn)",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Prepares what is not prepared yet and prints what there is."""
    import_tensorflow()
    from t5x_instruct.data.prepare_spec import PrepareSpec
    from t5x_instruct.data.prepared import ensure_prepared
    from t5x_instruct.data.vocabularies import load_vocabulary
    from t5x_instruct.runs.settings import default_prepared_dir

    prompt_format = chosen_prompt_format(args.prompt_format, load_vocabulary(args.vocabulary))
    spec = PrepareSpec(
        mixture=args.mixture,
        modules=modules_of(args),
        vocabulary=args.vocabulary,
        prompt_format=prompt_format,
        splits=tuple(args.split or ("train", "validation")),
        hold_out=tuple(args.hold_out),
        seed=args.seed,
        variants=args.variants,
        exemplars=args.exemplars,
        templates=args.templates,
        root=args.prepared_dir or default_prepared_dir(),
        module_options=module_options(args),
    )
    prepared = ensure_prepared(spec, in_process=True)
    rows = [_row(task, name, split) for task in prepared.tasks for name, split in task.splits.items()]
    print_table(COLUMNS, rows, args.json)
    return 0


def _row(task: Any, name: str, split: Any) -> dict[str, Any]:
    return {
        "task": task.name,
        "cluster": task.cluster,
        "role": task.role,
        "split": name,
        "examples": split.num_examples,
        "variants": split.variants,
        "inputs_tokens": split.tokens["inputs"],
        "targets_tokens": split.tokens["targets"],
        "refused": split.refused["count"],
    }
