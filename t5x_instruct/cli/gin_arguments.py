"""`--gin_file` and `--gin.NAME=VALUE`, for the verbs that are configured by gin."""

import argparse
from collections.abc import Sequence

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.config.schema import MACROS, Required
from t5x_instruct.config.value_types import describe

PREFIX = "--gin."


def add_gin_arguments(parser: argparse.ArgumentParser, verb: str) -> None:
    """Adds `--gin_file` and lists the verb's macros in its help.

    A verb's `run` then has `args.gin_file` and `args.gin_overrides` for `config.validate.resolve`.

    Args:
        parser: the verb's.
        verb: which of the macros are its own.
    """
    parser.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="FILE",
        help="gin file, repeatable; searched in the working folder, then in gin_configs/",
    )
    parser.set_defaults(gin_overrides=[])
    parser.usage = f"{parser.prog} [--gin_file=FILE ...] [--gin.NAME=VALUE ...]"
    parser.epilog = "\n".join(["settings, each in a gin file or as --gin.NAME=VALUE:", *_macro_lines(verb)])


def _macro_lines(verb: str) -> list[str]:
    lines = []
    for name, macro in MACROS.items():
        if verb in macro.defaults:
            default = macro.defaults[verb]
            value = "required" if isinstance(default, Required) else f"default {default!r}"
            lines.append(f"  {name:<25} {macro.meaning}\n{'':<28}[{describe(macro.type)}; {value}]")
    return lines


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes `--gin.NAME=VALUE` out of the arguments, so that argparse need not know every name.

    Args:
        arguments: words of the command line after the verb.

    Returns:
        The other words, and the overrides as "NAME=VALUE".

    Raises:
        ConfigError: an override without '='.
    """
    rest = [word for word in arguments if not word.startswith(PREFIX)]
    overrides = [word.removeprefix(PREFIX) for word in arguments if word.startswith(PREFIX)]
    wrong = [f"--gin.{word}: write --gin.NAME=VALUE, in one word" for word in overrides if "=" not in word]
    if wrong:
        raise ConfigError(wrong)
    return rest, overrides
