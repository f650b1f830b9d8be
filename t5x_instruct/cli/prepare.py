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
    parser.add_argument(
        "--strict", action="store_true", help="a task whose data cannot be had is an error instead of being skipped"
    )
    work = parser.add_argument_group("who does the work (the files are the same)")
    work.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1, this one)")
    work.add_argument(
        "--runner",
        metavar="RUNNER",
        help="an Apache Beam runner instead: DirectRunner, FlinkRunner, SparkRunner, DataflowRunner (extra: beam)",
    )
    work.add_argument(
        "--pipeline_option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the runner, e.g. flink_master=localhost:8081; repeatable",
    )
    work.add_argument(
        "--shard_rows",
        type=int,
        metavar="N",
        help="rows a shard, which is what an interrupted run does not do twice (default: 32,768)",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Prepares what is not prepared yet and prints what there is."""
    import_tensorflow()
    from t5x_instruct.data.prepare import prepare
    from t5x_instruct.data.prepare_spec import SHARD_ROWS, Execution, PrepareSpec
    from t5x_instruct.data.prepared import load_prepared
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
        strict=args.strict,
    )
    execution = Execution(
        workers=args.workers,
        runner=args.runner,
        pipeline_options=tuple(args.pipeline_option),
        shard_rows=SHARD_ROWS if args.shard_rows is None else args.shard_rows,
    )
    prepared = load_prepared(spec)
    if prepared is None or prepared.skipped:  # what could not be had may be there now
        prepared = prepare(spec, execution=execution)
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
