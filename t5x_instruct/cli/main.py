"""The console script `t5x-instruct`: finds the verb, runs it, and turns its end into an exit code.

Exit codes: 0 done, 1 a fault, 2 usage or configuration, 42 stopped on request with a checkpoint
saved (run the same command again).
"""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from t5x_instruct.cli.gin_arguments import split_overrides
from t5x_instruct.cli.output import print_error
from t5x_instruct.common.errors import EXIT_FAULT, EXIT_USAGE, InstructError, unknown

PROGRAM = "t5x-instruct"

# Verb -> what it does. Each is the module `t5x_instruct.cli.{verb}` with `add_arguments(parser)`,
# which imports nothing heavy, and `run(args) -> exit code`.
VERBS: dict[str, str] = {
    "train": "train a model on a mixture and score it on held-out tasks, before and after",
    "eval": "score a model on a mixture's validation examples, zero-shot or with exemplars",
    "infer": "let a model answer prompts",
    "prepare": "render and tokenize a mixture into files that training reads",
    "plan": "compile a run for a TPU slice that is not there: memory, time, traffic",
    "vocab": "train a SentencePiece vocabulary on a mixture's texts",
    "launch": "run a training or an evaluation on Cloud TPU slices: create, run, status, logs, stop, delete",
    "convert": "write any checkpoint as a folder that transformers opens",
    "inspect": "list what a checkpoint holds: names, shapes, types and sizes",
    "tasks": "list registered tasks, show their examples as the model sees them, and more",
}


def _overview() -> argparse.ArgumentParser:
    lines = [f"  {verb:<10} {summary}" for verb, summary in VERBS.items()]
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} VERB [arguments]",
        description="Instruction-tune pretrained language models and measure them on tasks they have never seen.",
        epilog="\n".join(["verbs:", *lines, "", f"'{PROGRAM} VERB --help' explains one."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("verb", help=argparse.SUPPRESS)
    return parser


def _run_verb(verb: str, words: Sequence[str]) -> int:
    module = importlib.import_module(f"t5x_instruct.cli.{verb}")
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} {verb}",
        description=f"{VERBS[verb][:1].upper()}{VERBS[verb][1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    rest, overrides = split_overrides(words)
    args = parser.parse_args(rest)
    if hasattr(args, "gin_overrides"):
        args.gin_overrides = overrides
    elif overrides:
        parser.error(f"{verb} is not configured by gin, it has no --gin.{overrides[0].partition('=')[0]}")
    return int(module.run(args) or 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: words after the program's name; None for those of this process.

    Returns:
        The exit code.

    Raises:
        SystemExit: from argparse, after help (0) or a usage error (2).
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0].startswith("-"):
        _overview().parse_args(words)
    verb = words[0]
    if verb not in VERBS:
        print_error(f"{unknown('verb', verb, VERBS)}; see {PROGRAM} --help")
        return EXIT_USAGE
    try:
        code = _run_verb(verb, words[1:])
        sys.stdout.flush()
        return code
    except InstructError as error:
        print_error(str(error))
        return error.exit_code
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAULT
    except KeyboardInterrupt:
        print_error("interrupted")
        return EXIT_FAULT
    except Exception:
        traceback.print_exc()
        return EXIT_FAULT


if __name__ == "__main__":
    sys.exit(main())
