"""`tasks ACTION`: everything about registered tasks, one module an action."""

import argparse
import importlib
from typing import Any

# Action -> what it does. Each is the module `t5x_instruct.cli.tasks.{action}` with `add_arguments(parser)`, which
# imports nothing heavy, and `run(args) -> exit code`.
ACTIONS: dict[str, str] = {
    "list": "all tasks, or those of a mixture or cluster",
    "show": "examples as the model sees them",
    "doctor": "which tasks' data is here, which can be downloaded, what the others need",
    "add": "a task from a file or dataset of your own, written into a module",
    "audit": "what is wrong with a mixture's examples: cut, untrained, copied, damaged",
    "stats": "lengths of a mixture's examples, and the row shape that wastes least",
    "overlap": "which evaluated examples stand in what is trained on",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the actions with their arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar=" | ".join(ACTIONS))
    for action, summary in ACTIONS.items():
        _module(action).add_arguments(actions.add_parser(action, help=summary, allow_abbrev=False))


def run(args: argparse.Namespace) -> int:
    """Does the action."""
    return int(_module(args.action).run(args) or 0)


def _module(action: str) -> Any:
    return importlib.import_module(f"t5x_instruct.cli.tasks.{action}")
