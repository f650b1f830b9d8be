"""Arguments that say which tasks are meant and how they become tokens, shared by `tasks` and `prepare`."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from t5x_instruct.common.errors import ConfigError, unknown
from t5x_instruct.common.quiet_tensorflow import import_tensorflow
from t5x_instruct.data.task_modules import DEFAULT_MODULES

SPLIT = "validation"
FEATURES = ("inputs", "targets")


def add_module_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--module` and `--module_option`."""
    parser.add_argument(
        "--module",
        action="append",
        metavar="M",
        help="module or .py file that registers tasks, repeatable (default: tasks.starter and tasks.flan2021)",
    )
    parser.add_argument(
        "--module_option",
        action="append",
        default=[],
        metavar="MODULE.NAME=VALUE",
        help="setting of a task module, e.g. tasks.cot.FOLDER=/data/cot; repeatable",
    )


def add_task_choice(parser: argparse.ArgumentParser) -> None:
    """Adds the mixture whose tasks are meant, which may be left out, and the modules that register it."""
    parser.add_argument("mixture", nargs="?", help="only the tasks of this mixture or task (default: all tasks)")
    add_module_arguments(parser)


def chosen_tasks(args: argparse.Namespace) -> list[str]:
    """The names of the tasks that the arguments of `add_task_choice` mean, after their modules are imported.

    Raises:
        ConfigError: a module cannot be imported, the mixture does not exist, or nothing is registered.
    """
    import_tensorflow()
    from t5x_instruct.data.task_modules import import_task_modules
    from t5x_instruct.data.tasks import all_tasks, tasks_in

    import_task_modules(modules_of(args), module_options(args))
    names = tasks_in(args.mixture) if args.mixture else all_tasks()
    if not names:
        raise ConfigError(f"{', '.join(modules_of(args))}: no task is registered there; name another --module")
    return names


def add_mixture_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the mixture and what decides its texts: modules, hold-out, seed, and where prepared data lies."""
    parser.add_argument("mixture", metavar="MIXTURE", help="registered mixture or task")
    add_module_arguments(parser)
    parser.add_argument(
        "--hold_out", action="append", default=[], metavar="NAME", help="cluster or task not trained on; repeatable"
    )
    parser.add_argument("--seed", type=int, default=0, help="of templates and options (default: 0)")
    parser.add_argument(
        "--prepared_dir", metavar="DIR", help="where it goes, also gs://BUCKET/... (default: the cache folder)"
    )


def add_vocabulary_arguments(parser: argparse.ArgumentParser, **vocabulary: Any) -> None:
    """Adds `--vocabulary` (with argparse's options given here) and `--prompt_format`."""
    parser.add_argument(
        "--vocabulary",
        metavar="SPEC",
        help="'bytes', a folder with tokenizer.json or spiece.model, or a SentencePiece .model file",
        **vocabulary,
    )
    parser.add_argument(
        "--prompt_format",
        choices=("auto", "plain", "line", "eos", "chat", "chat_each"),
        default="auto",
        help="what the model is given: the text, the text and a line break (decoders without chat template), the text "
        "and the end token (encoder-decoders), or a user turn of the chat template (chat_each: for prefix-LMs and "
        "encoder-decoders, one reply of a conversation an example); auto: chat if the vocabulary has a chat template, "
        "else line (default)",
    )


def add_length_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--lengths`."""
    parser.add_argument(
        "--lengths", metavar="inputs=N,targets=N", help="TASK_FEATURE_LENGTHS: tells what would be cut [tokens]"
    )


def read_lengths(text: str | None, *, both: bool = False) -> dict[str, int]:
    """The value of `--lengths`; empty if it was not given.

    Args:
        text: 'inputs=N,targets=N', or one of them.
        both: whether one of them is not enough.

    Raises:
        ConfigError: not of this form.
    """
    if text is None:
        return {}
    pairs = read_pairs(text.split(","), "lengths")
    problems = [f"--lengths: {unknown('feature', name, FEATURES)}" for name in pairs if name not in FEATURES]
    problems += [f"--lengths {k}={v}: must be a whole number" for k, v in pairs.items() if not v.isdecimal()]
    if both:
        problems += [f"--lengths {text}: {name} is missing" for name in FEATURES if name not in pairs]
    if problems:
        raise ConfigError(problems)
    return {name: int(value) for name, value in pairs.items()}


def modules_of(args: argparse.Namespace) -> tuple[str, ...]:
    """The task modules that were asked for."""
    return tuple(args.module or DEFAULT_MODULES)


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
    """The format that was asked for; no model is known here, so 'auto' is what a decoder reads."""
    from t5x_instruct.data.prompt_formats import default_prompt_format

    return default_prompt_format(vocabulary, "causal") if name == "auto" else name


def open_prepared(args: argparse.Namespace, mixture: str | None = None, **more: Any) -> tuple[Any, Any]:
    """The prepared mixture that the arguments name, and its vocabulary; a child process prepares what is missing.

    Args:
        args: with the arguments of `add_mixture_arguments` and `add_vocabulary_arguments`.
        mixture: another mixture than `args.mixture`.
        more: other fields of `PrepareSpec`, or other values for those of `args`.

    Raises:
        ConfigError, DataError: as `ensure_prepared`.
    """
    from t5x_instruct.data.prepare_spec import PrepareSpec
    from t5x_instruct.data.prepared import ensure_prepared
    from t5x_instruct.data.vocabularies import load_vocabulary
    from t5x_instruct.runs.settings import default_prepared_dir

    vocabulary = load_vocabulary(args.vocabulary)
    asked: dict[str, Any] = {
        "mixture": mixture or args.mixture,
        "modules": modules_of(args),
        "vocabulary": args.vocabulary,
        "prompt_format": chosen_prompt_format(args.prompt_format, vocabulary),
        "hold_out": tuple(args.hold_out),
        "seed": args.seed,
        "root": args.prepared_dir or default_prepared_dir(),
        "module_options": module_options(args),
    }
    return ensure_prepared(PrepareSpec(**asked | more)), vocabulary
