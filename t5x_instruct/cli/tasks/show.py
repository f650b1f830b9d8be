"""`tasks show`: what the model gets to see of a task."""

import argparse
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from t5x_instruct.cli.data_arguments import (
    SPLIT,
    add_length_arguments,
    add_module_arguments,
    add_vocabulary_arguments,
    chosen_prompt_format,
    module_options,
    modules_of,
    read_lengths,
)
from t5x_instruct.cli.output import BOLD, DIM, GREEN, YELLOW, add_json_argument, colour, in_colour, print_json
from t5x_instruct.common.errors import ConfigError
from t5x_instruct.common.quiet_tensorflow import import_tensorflow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the action's arguments."""
    parser.add_argument("name", metavar="NAME", help="a task")
    parser.add_argument("--examples", type=int, default=3, metavar="N", help="how many (default: 3)")
    parser.add_argument("--split", default=SPLIT, help=f"which split (default: {SPLIT})")
    add_length_arguments(parser)
    add_vocabulary_arguments(parser, default="bytes")
    add_module_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Shows the examples."""
    import_tensorflow()
    from t5x_instruct.data.prepare_spec import PrepareSpec
    from t5x_instruct.data.preview import preview
    from t5x_instruct.data.task_modules import import_task_modules
    from t5x_instruct.data.tasks import task_info
    from t5x_instruct.data.vocabularies import load_vocabulary

    if args.examples < 1:
        raise ConfigError(f"--examples {args.examples}: must be at least 1")
    limits = read_lengths(args.lengths)
    vocabulary = load_vocabulary(args.vocabulary)
    modules, options = modules_of(args), module_options(args)
    import_task_modules(modules, options)
    info = task_info(args.name)
    spec = PrepareSpec(
        mixture=args.name,
        modules=modules,
        vocabulary=args.vocabulary,
        prompt_format=chosen_prompt_format(args.prompt_format, vocabulary),
        splits=(args.split,),
        root=Path(),  # nothing is written
        module_options=options,
    )
    previews = preview(spec, args.name, args.split, args.examples)
    described = [_describe(one.example, vocabulary, limits) | {"refused": one.fault} for one in previews]
    if args.json:
        print_json({"task": info.name, "cluster": info.cluster, "split": args.split, "examples": described})
    else:
        _print_examples(info, args.split, described)
    return 0


def _describe(example: Any, vocabulary: Any, limits: Mapping[str, int]) -> dict[str, Any]:
    """An example as JSON: its text in pieces that are trained or not, token counts, what is cut."""
    mask = [False] * len(example.inputs) + [bool(trained) for trained in example.targets_mask]
    tokens = {"inputs": len(example.inputs), "targets": len(example.targets)}
    ids = [*map(int, example.inputs), *map(int, example.targets)]
    return {
        "pieces": [{"text": t, "trained": trained} for t, trained in _pieces(ids, mask, vocabulary)],
        "tokens": tokens,
        "trained_tokens": sum(mask),
        "cut_tokens": {name: max(0, tokens[name] - limit) for name, limit in limits.items()},
        "meta": dict(example.meta),
    }


def _pieces(ids: Sequence[int], mask: Sequence[bool], vocabulary: Any) -> Iterator[tuple[str, bool]]:
    """Text of consecutive tokens that are all trained or all not; special tokens by their name."""
    for trained, run_of_tokens in itertools.groupby(zip(ids, mask, strict=True), key=lambda pair: pair[1]):
        text = ""
        run_ids = [token for token, _ in run_of_tokens]
        for special, part in itertools.groupby(run_ids, key=lambda token: not vocabulary.decode([token])):
            tokens = list(part)
            text += "".join(map(vocabulary.token_string, tokens)) if special else vocabulary.decode(tokens)
        yield text, trained


def _print_examples(info: Any, split: str, examples: Sequence[Mapping[str, Any]]) -> None:

    print(colour(f"{info.name}", BOLD) + f" (cluster {info.cluster}, {info.where})")
    print(colour(f"{len(info.templates)} templates; trained text is marked", DIM))
    marks = ("", "") if in_colour(sys.stdout) else ("«", "»")
    for number, example in enumerate(examples):
        print(colour(f"\n--- {split}, example {number}", BOLD))
        for piece in example["pieces"]:
            text = piece["text"]
            print(colour(f"{marks[0]}{text}{marks[1]}", GREEN) if piece["trained"] else text, end="")
        tokens = ", ".join(f"{name} {count}" for name, count in example["tokens"].items())
        print("\n" + colour(f"tokens: {tokens}; trained {example['trained_tokens']}", DIM))
        for name, count in example["cut_tokens"].items():
            if count:
                print(colour(f"{count} tokens of {name} would be cut", YELLOW))
        if example["refused"]:
            print(colour(f"prepare refuses this example: {example['refused']}", YELLOW))
    if not examples:
        print(f"split {split!r} has no examples")
