"""`tasks add`: a task from a file or dataset, written into a module."""

import argparse
import contextlib
import io
import itertools
import os
import secrets
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from t5x_instruct.cli.data_arguments import add_vocabulary_arguments
from t5x_instruct.cli.output import BOLD, YELLOW, colour
from t5x_instruct.common.errors import ConfigError, InstructError
from t5x_instruct.common.io import write_bytes
from t5x_instruct.common.quiet_tensorflow import import_tensorflow

MODULE = "my_tasks.py"
SPLIT_PERCENT = 5
CHECKED = 200_000  # rows that are read before anything is written
EXAMPLES = 2
EPILOG = """examples:
  t5x-instruct tasks add faq --from faq.jsonl
  t5x-instruct tasks add topics --from tickets.csv --field answer=topic --template "What is this about?\\n{text}"
  t5x-instruct tasks add sums --from sums.tsv --columns question,answer,why \\
      --template "{question}\\nThink first." "{why}\\nSo it is {answer}." --template "{question}"
  t5x-instruct tasks add news --from hf://fancyzhx/ag_news --field answer=label --template "Topic of: {text}"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the action's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("name", metavar="NAME", help="the new task's name")
    parser.add_argument(
        "--from",
        dest="files",
        nargs="+",
        required=True,
        metavar="FILE",
        help="rows to train on: .jsonl, .json, .csv, .tsv, .parquet (the first four also as .gz), a folder of a "
        "Hugging Face dataset, or hf://ORG/NAME[@REVISION]",
    )
    parser.add_argument(
        "--validation", nargs="+", default=[], metavar="FILE", help="rows to evaluate on (hf: the name of a split)"
    )
    parser.add_argument(
        "--split-percent",
        type=int,
        default=SPLIT_PERCENT,
        metavar="N",
        help=f"without --validation: how many of 100 rows to evaluate on (default: {SPLIT_PERCENT}; 0: none)",
    )
    parser.add_argument("--shape", help="what the rows look like, if it cannot be told from them (an error lists all)")
    parser.add_argument(
        "--template",
        action="append",
        nargs="+",
        default=[],
        metavar="TEXT",
        help="an instruction with {field} for a row's fields, and perhaps the text to learn (default: '{answer}'); "
        "\\n is a line break; repeatable",
    )
    parser.add_argument(
        "--field", action="append", default=[], metavar="OURS=THEIRS", help="renames a field: answer=label; repeatable"
    )
    parser.add_argument("--columns", metavar="A,B,C", help="names of the columns of a CSV or TSV file without header")
    parser.add_argument("--delimiter", metavar="CHARACTER", help="of a CSV file (default: as the first line has it)")
    parser.add_argument("--unescape", action="store_true", help="in TSV, a backslash and an n are a line break")
    parser.add_argument("--config", help="the configuration of a Hugging Face dataset")
    parser.add_argument("--cluster", help="the cluster that can be held out with it (default: the task's name)")
    parser.add_argument("--metric", action="append", default=[], metavar="NAME", help="default: by shape; repeatable")
    parser.add_argument(
        "--module", default=MODULE, metavar="FILE", help=f"the file it is written into (default: {MODULE})"
    )
    add_vocabulary_arguments(parser, default="bytes")


def run(args: argparse.Namespace) -> int:
    """Adds the task."""
    import_tensorflow()
    from t5x_instruct.cli.tasks.choosing import choose_registration
    from t5x_instruct.data.task_writing import with_call

    path = _module_path(args.module)
    chosen = choose_registration(args)
    old = _text_of(path)
    text = with_call(old, chosen, str(path))
    with _written_beside(path, text) as beside:
        shown = _checked(args, beside, path)
        counts = _counted(args.name)
        os.replace(beside, path)
    print(shown)
    _print_end(args, path, bool(old), counts)
    return 0


def _module_path(name: str) -> Path:
    path = Path(name)
    problem = None
    if path.suffix != ".py":
        problem = "name a file that ends in .py"
    elif not path.parent.is_dir():
        problem = f"there is no folder {path.parent}"
    elif (path.parent / "__init__.py").is_file():
        problem = "it belongs to a package, which is imported as a whole; name a file outside of one"
    if problem:
        raise ConfigError(f"--module {name}: {problem}")
    return path


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--module {path} cannot be read: {error}") from error


@contextlib.contextmanager
def _written_beside(path: Path, text: str) -> Iterator[Path]:
    """A file with the new text in the module's folder, gone at the end if it has not taken the module's place."""
    beside = path.with_name(f"{path.stem}_being_added_{secrets.token_hex(4)}.py")
    compiled = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        try:
            write_bytes(beside, text.encode())
        except OSError as error:
            raise ConfigError(f"--module {path} cannot be written: {error}") from error
        yield beside
    finally:
        sys.dont_write_bytecode = compiled
        beside.unlink(missing_ok=True)


def _checked(args: argparse.Namespace, beside: Path, path: Path) -> str:
    """Imports the new text and gives its first examples as they are shown, trained text marked."""
    from t5x_instruct.cli.tasks import show

    shown = io.StringIO()
    words = argparse.Namespace(
        name=args.name,
        examples=EXAMPLES,
        split="train",
        lengths=None,
        vocabulary=args.vocabulary,
        prompt_format=args.prompt_format,
        module=[str(beside)],
        module_option=[],
        json=False,
    )
    try:
        with contextlib.redirect_stdout(shown):
            show.run(words)
    except InstructError as error:
        # Nobody knows the file that was imported.
        raise type(error)(_with_name(str(error), beside, path)) from error
    return _with_name(shown.getvalue(), beside, path)


def _with_name(text: str, beside: Path, path: Path) -> str:
    return text.replace(str(beside.resolve()), str(path)).replace(str(beside), str(path))


def _counted(name: str) -> dict[str, str]:
    """Reads the rows of each split, which checks them, and says how many there are."""
    import seqio

    source = seqio.TaskRegistry.get(name).source
    counts = {}
    for split in source.splits:
        count = sum(1 for _ in itertools.islice(source.rows(split), CHECKED + 1))
        counts[split] = f"{count:,}" if count <= CHECKED else f"more than {CHECKED:,}"
    return counts


def _print_end(args: argparse.Namespace, path: Path, was_there: bool, counts: Mapping[str, str]) -> None:
    rows = ", ".join(f"{count} rows of {split}" for split, count in counts.items())
    print(colour(f"{'added to' if was_there else 'written:'} {path}", BOLD) + f" ({rows})")
    if "validation" not in counts:
        print(colour("no row is kept for validation; give more rows, or --validation", YELLOW))
    module, name = shlex.quote(str(path)), shlex.quote(args.name)
    print(
        f"\nlook at more:  t5x-instruct tasks show {name} --module {module} --examples 5\n"
        f"train on it:   t5x-instruct train --gin_file=recipes/quickstart.gin --gin.MODEL_DIR=runs/{name} \\\n"
        f"                   --gin.MIXTURE_OR_TASK_NAME={name} --gin.MIXTURE_OR_TASK_MODULE={module} \\\n"
        "                   --gin.HOLD_OUT='()' --dry_run\n"
        "               (shows what would be done; without --dry_run it is done)"
    )
