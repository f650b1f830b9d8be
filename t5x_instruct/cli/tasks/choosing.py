"""How the rows that `tasks add` is given become a registration: source, shape, fields, templates and metrics."""

import argparse
import inspect
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from t5x_instruct.cli.data_arguments import read_pairs
from t5x_instruct.common.errors import ConfigError, DataError, unknown
from t5x_instruct.data.row_shapes import (
    PROMPT,
    SHAPES,
    Placed,
    known_shapes,
    reshape,
    shape_named,
    shapes_of,
    shortened,
)
from t5x_instruct.data.task_writing import Call, Name
from t5x_instruct.templates.prompts import Template

LOOKED_AT = 20  # rows that tell the shape
LARGER_PERCENTS = (10, 20, 30, 50)  # for a file of a few rows
HUB = "hf://"
FILE_SOURCES = "t5x_instruct.data.file_sources"
JSONL = Name("t5x_instruct.data.sources", "Jsonl")
TSV = Name("t5x_instruct.data.sources", "Tsv")
CSV, JSON, PARQUET = (Name(FILE_SOURCES, name) for name in ("Csv", "Json", "Parquet"))
HUGGING_FACE = Name("t5x_instruct.data.hub_sources", "HuggingFace")
BY_SUFFIX = {".jsonl": JSONL, ".ndjson": JSONL, ".json": JSON, ".csv": CSV, ".tsv": TSV, ".parquet": PARQUET}
METRICS = "t5x_instruct.evaluation.metrics"
DELIMITERS = (",", ";", "\t", "|")
ANSWER_FIELDS = ("answer", "answers", "options")
OPTION_LISTS = ("options", "options_inline")


class Rows(NamedTuple):
    """How rows become examples.

    Attributes:
        shape: the known shape they are put into, if any.
        fields: the fields to keep, perhaps under other names; None: all.
        templates: what `add_task` is given; none for conversations.
        split_by: the fields that say what a row asks; empty where the source knows.
        kept: fields that stay beside a conversation.
    """

    shape: str | None
    fields: Sequence[str] | Mapping[str, str] | None
    templates: Sequence[Template]
    split_by: Sequence[str] = ()
    kept: Sequence[str] = ()

    @property
    def are_conversations(self) -> bool:
        """Whether the task is one of conversations."""
        return self.shape is not None and SHAPES[self.shape].gives == "messages"


def choose_registration(args: argparse.Namespace) -> Call:
    """The call that registers what the arguments of `tasks add` ask for; the first rows are read for it.

    Raises:
        ConfigError: the arguments do not fit each other or the rows; DataError: the rows cannot be read.
    """
    source = _source(args)
    first = list(itertools.islice(source().placed("train"), LOOKED_AT))
    if not first:
        raise DataError(f"{' '.join(args.files)}: there are no rows")
    rows = _rows(args, first)
    options = dict(source.options)
    if rows.fields is not None:
        options["fields"] = rows.fields
    if rows.shape is not None:
        options["shape"] = rows.shape
    filled = Call(source.function, source.arguments, options)
    if args.split_percent and "validation" not in source.arguments[-1]:
        filled = _with_share(filled, args.split_percent, rows.split_by)
    named = {"cluster": args.cluster or args.name, "source": filled}
    if rows.are_conversations:
        return _chat_task(args, named, rows.kept)
    # Long answers are hardly ever the same to the letter.
    usual = "exact_match" if rows.shape in (None, "prompt_completion") else "rouge_l"
    metrics = [Name(METRICS, name) for name in _metrics(args) or [usual]]
    templates = [_as_written(template) for template in rows.templates]
    add_task = Name("t5x_instruct.data.tasks", "add_task")
    return Call(add_task, [args.name], {**named, "templates": templates, "metrics": metrics})


def _with_share(source: Call, percent: int, split_by: Sequence[str]) -> Call:
    """The source with a share of its rows for validation: a larger one where this one takes no row or every row."""
    for share in (percent, *(larger for larger in LARGER_PERCENTS if larger > percent)):
        options = {**source.options, "validation_percent": share} | ({"split_by": list(split_by)} if split_by else {})
        parted = Call(source.function, source.arguments, options)
        made = parted()
        if all(next(made.placed(split), None) is not None for split in made.splits):
            return parted
    return source


def _chat_task(args: argparse.Namespace, named: Mapping[str, Any], kept: Sequence[str]) -> Call:
    options = {**named, "metrics": [Name(METRICS, name) for name in _metrics(args)]} if args.metric else {**named}
    options |= {"fields": list(kept)} if kept else {}
    return Call(Name("t5x_instruct.data.chat_tasks", "add_chat_task"), [args.name], options)


def _as_written(template: Template) -> str | Call:
    if template.targets == "{answer}":
        return template.inputs
    return Call(Name("t5x_instruct.templates.prompts", "Template"), [template.inputs, template.targets])


def _source(args: argparse.Namespace) -> Call:
    """The source without what is not yet known of the rows; its last argument maps splits to where they are."""
    problems = []
    if not 0 <= args.split_percent < 100:
        problems.append(f"--split-percent {args.split_percent}: must be from 0 (none) to 99")
    if len(args.files) > 1 and any(_is_dataset(name) for name in args.files):
        problems.append(f"--from {' '.join(args.files)}: give one dataset, or files")
    if problems:
        raise ConfigError(problems)
    if _is_dataset(args.files[0]):
        return _dataset(args)
    kinds = {_kind(name): name for name in [*args.files, *args.validation]}
    if len(kinds) > 1:
        told = " and ".join(f"{name} ({kind.name})" for kind, name in kinds.items())
        raise ConfigError(f"files of one kind make a task, not {told}; convert one, or add two tasks")
    (function,) = kinds
    options: dict[str, Any] = {}
    if args.columns:
        if function not in (CSV, TSV):
            raise ConfigError(f"--columns is for CSV and TSV; {args.files[0]} has names of its own")
        options["columns"] = [name.strip() for name in args.columns.split(",")]
    if args.unescape:
        if function != TSV:
            raise ConfigError(f"--unescape is for TSV, which {args.files[0]} is not")
        options["unescape"] = True
    if function == CSV:
        delimiter = args.delimiter or _delimiter(args.files[0])
        options |= {"delimiter": delimiter} if delimiter != "," else {}
    elif args.delimiter:
        raise ConfigError(f"--delimiter is for CSV, which {args.files[0]} is not")
    files = {"train": _one_or_more(args.files)}
    if args.validation:
        files["validation"] = _one_or_more(args.validation)
    return Call(function, [files], options)


def _one_or_more(names: Sequence[str]) -> Any:
    return names[0] if len(names) == 1 else list(names)


def _is_dataset(name: str) -> bool:
    return name.startswith(HUB) or Path(name).is_dir()


def _dataset(args: argparse.Namespace) -> Call:
    from t5x_instruct.data.hub_sources import dataset_splits

    name, _, revision = args.files[0].removeprefix(HUB).partition("@")
    if Path(args.files[0]).is_dir():
        name, revision = args.files[0], ""
    options = {key: value for key, value in (("config", args.config), ("revision", revision)) if value}
    there = dataset_splits(name, **options)
    wanted = args.validation or [split for split in ("validation",) if split in there]
    train = "train" if "train" in there or len(there) > 1 else there[0]
    wrong = [split for split in (train, *wanted) if split.partition("[")[0] not in there]
    if wrong:
        raise ConfigError(f"{args.files[0]}: {unknown('split', wrong[0], there)}")
    splits = {"train": train} | ({"validation": _one_or_more(wanted)} if wanted else {})
    return Call(HUGGING_FACE, [name, splits], options)


def _kind(name: str) -> Name:
    suffix = Path(name.removesuffix(".gz")).suffix.lower()
    if suffix not in BY_SUFFIX:
        hint = f"the names of files end in {', '.join(BY_SUFFIX)}; a dataset of the hub is {HUB}ORG/NAME"
        raise ConfigError(f"--from {name}: it is not known what this is: {hint}")
    if suffix == ".json" and _is_jsonl(name):
        return JSONL
    return BY_SUFFIX[suffix]


def _is_jsonl(path: str) -> bool:
    """Whether a file called .json has an object on each line, as many have."""
    from t5x_instruct.data.lines import raw_lines

    lines = (line for line in raw_lines(path) if line.strip())
    try:
        return all(isinstance(json.loads(line), dict) for line in [next(lines), next(lines)])
    except (StopIteration, ValueError, RecursionError):
        return False


def _delimiter(path: str) -> str:
    """What the cells of the first line stand apart by."""
    from t5x_instruct.data.lines import raw_lines

    line = next(raw_lines(path), b"").decode("utf-8-sig", "replace")
    return max(DELIMITERS, key=line.count)


def _rows(args: argparse.Namespace, first: Sequence[Placed]) -> Rows:
    """Decides what is made of rows that begin with these."""
    renames = read_pairs(args.field, "field")
    templates = [_template(words) for words in args.template]
    seen = [Placed(_renamed(item, renames), item.place) for item in first]
    fields = set.intersection(*(set(item.row) for item in seen))
    used = {name for template in templates for name in template.fields}
    if args.shape is None and templates and not _missing(used, fields):
        return _plain(templates, fields, renames)
    if args.shape is None and templates and not shapes_of([item.row for item in seen]):
        raise _unknown_fields(_missing(used, fields), fields, seen[0])
    shape = args.shape or _detected(seen)
    ours = list(itertools.islice(reshape(seen, shape), LOOKED_AT))
    if not ours:
        raise DataError(f"{seen[0].place}: rows of the shape {shape!r} give no example; the row: {shortened(seen[0])}")
    if shape_named(shape).gives == "messages":
        if templates:
            raise ConfigError(f"--template: conversations ({shape}) are learned as they are; leave it out")
        return Rows(shape, renames or None, (), kept=sorted(set(ours[0].row) - {"messages", "tools"}))
    there = set(ours[0].row)
    if missing := _missing(used, there):
        raise _unknown_fields(missing, there, ours[0])
    if not templates and "prompt" not in there:
        raise ConfigError(f"rows of the shape {shape!r} have no prompt; give a --template")
    return Rows(shape, renames or None, templates or [Template(PROMPT)])


def _plain(templates: Sequence[Template], there: set[str], renames: Mapping[str, str]) -> Rows:
    """Rows that have what the templates use: nothing is kept of them but that, and the answers and options."""
    asked = {name for template in templates for name in template.input_fields} - set(ANSWER_FIELDS)
    asked -= {"options_inline"} - there
    learned = {name for template in templates for name in template.target_fields} - set(ANSWER_FIELDS)
    kept = sorted(asked | learned) + [name for name in ANSWER_FIELDS if name in there]
    fields = {name: renames.get(name, name) for name in kept} if renames else kept
    # Where more than the answer is learned, that is no part of the question.
    return Rows(None, fields, templates, sorted(asked) if learned - asked and asked else ())


def _renamed(item: Placed, renames: Mapping[str, str]) -> dict[str, Any]:
    missing = [old for old in renames.values() if old not in item.row]
    if missing:
        raise ConfigError(f"--field: {item.place}: {unknown('field', missing[0], item.row)}")
    return {**item.row, **{new: item.row[old] for new, old in renames.items()}}


def _missing(used: set[str], there: set[str]) -> list[str]:
    usable = there | ({"answer"} if "answers" in there else set())
    usable |= set(OPTION_LISTS) if "options" in there else set()
    return sorted(used - usable)


def _unknown_fields(missing: Sequence[str], there: set[str], row: Placed) -> ConfigError:
    lines = [f"--template: {unknown('field', name, there)}" for name in missing]
    lines.append(f"a row ({row.place}): {shortened(row.row)}")
    if "answer" in missing:
        lines.append("a template learns {answer}: name the field that has it by --field answer=THEIRS")
    return ConfigError("\n".join(lines))


def _detected(seen: Sequence[Placed]) -> str:
    found = shapes_of([item.row for item in seen])
    if len(found) == 1:
        return found[0]
    row = f"a row ({seen[0].place}): {shortened(seen[0].row)}"
    if found:
        raise ConfigError(f"the rows may be of the shape {' or '.join(found)}; choose by --shape\n{row}")
    raise ConfigError(
        "the rows are of no known shape; give a --template that uses their fields, or rename them by --field,"
        f" or name the --shape\n{row}\n{known_shapes()}"
    )


def _template(words: Sequence[str]) -> Template:
    if len(words) > 2:
        raise ConfigError(f"--template takes an instruction and perhaps a text to learn, got {len(words)}: {words}")
    return Template(*(word.replace("\\n", "\n").replace("\\t", "\t") for word in words))


def _metrics(args: argparse.Namespace) -> list[str]:
    """The names of the metrics that were asked for."""
    import importlib

    module = importlib.import_module(METRICS)
    known = [
        name
        for name, value in inspect.getmembers(module, inspect.isfunction)
        if value.__module__ == METRICS
        and list(inspect.signature(value).parameters) == ["targets", "predictions"]
        and str(inspect.signature(value).return_annotation) == "dict[str, float]"
    ]
    wrong = [f"--metric: {unknown('metric', name, known)}" for name in args.metric if name not in known]
    if wrong:
        raise ConfigError(wrong)
    return list(args.metric)
