"""Arguments that say which tasks are meant and how they become tokens, shared by `tasks` and `prepare`."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from t5x_instruct.common.errors import ConfigError

SPLIT = "validation"


def add_module_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--module` and `--module_option`."""
    parser.add_argument(
        "--module",
        action="append",
        metavar="M",
        help="module or .py file that registers tasks, repeatable (default: tasks, the package's own)",
    )
    parser.add_argument(
        "--module_option",
        action="append",
        default=[],
        metavar="MODULE.NAME=VALUE",
        help="setting of a task module, e.g. tasks.cot.FOLDER=/data/cot; repeatable",
    )


def add_vocabulary_arguments(parser: argparse.ArgumentParser, **vocabulary: Any) -> None:
    """Adds `--vocabulary` (with argparse's options given here) and `--prompt_format`."""
    parser.add_argument(
        "--vocabulary",
        metavar="SPEC",
        help="'bytes', a folder with tokenizer.json, or a SentencePiece .model file",
        **vocabulary,
    )
    parser.add_argument(
        "--prompt_format",
        choices=("auto", "plain", "chat"),
        default="auto",
        help="auto: chat if the vocabulary has a chat template (default)",
    )


def modules_of(args: argparse.Namespace) -> tuple[str, ...]:
    """The task modules that were asked for."""
    return tuple(args.module or ("tasks",))


def read_pairs(words: Sequence[str], option: str) -> dict[str, str]:
    """'NAME=VALUE' words as a mapping.

    Raises:
        ConfigError: words without '=', all of them.
    """
    wrong = [f"--{option} {word}: write NAME=VALUE" for word in words if "=" not in word]
    if wrong:
        raise ConfigError(wrong)
    return dict(word.split("=", 1) for word in words)


def module_options(args: argparse.Namespace) -> Mapping[str, str]:
    """The settings given with `--module_option`."""
    return read_pairs(args.module_option, "module_option")


def chosen_prompt_format(name: str, vocabulary: Any) -> str:
    """'plain' or 'chat': what 'auto' means for a vocabulary."""
    if name != "auto":
        return name
    return "plain" if vocabulary.chat_template is None else "chat"
