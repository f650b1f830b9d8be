"""Natural Instructions v2 (Super-NaturalInstructions), read from a copy of its repository.

The folder has `tasks/*.json` and `splits/NAME/{train,test}_tasks.txt`; name it by the module option
`tasks.niv2.FOLDER` or by the environment variable T5X_INSTRUCT_NIV2_FOLDER (and so on for the other
settings below). Each listed task whose file is there becomes a task `niv2_task1234_...` in a cluster
for its category, such as `niv2_title_generation`. Mixtures: `niv2_train`, `niv2_test` and `niv2`,
which has both, so that the clusters of `niv2_test` can be held out of it.

Inputs are those of Tk-Instruct (definition and positive examples), letter for letter, but a positive
example that is the query itself is passed over, and nothing is cut here. The target is one of the
outputs; all of them count as right. ROUGE-L is the rouge-score package's, as in the paper; exact
match is this project's, which keeps punctuation inside an answer (3.5 is not 35).

Source: github.com/allenai/natural-instructions; Wang et al. 2022, Super-NaturalInstructions.
"""

import functools
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from t5x_instruct.common.errors import ConfigError, unknown
from t5x_instruct.data.preprocessors import RenderContext
from t5x_instruct.data.row_maps import Row
from t5x_instruct.data.row_steps import RowStep
from t5x_instruct.data.sources import RowSource
from t5x_instruct.data.task_modules import module_option
from t5x_instruct.data.tasks import add_mixture, add_task, proportional
from t5x_instruct.evaluation.metrics import Target, exact_match, rouge_l
from t5x_instruct.templates.prompts import Template, draw
from tasks.niv2_reader import EXAMPLES_LEFT_OUT, MIN_TO_SPLIT, TEST_INSTANCES, note_problems, read_head, report, rows

__all__ = ["EXAMPLES_LEFT_OUT", "register", "report"]

FOLDER = module_option("tasks.niv2.FOLDER", os.environ.get("T5X_INSTRUCT_NIV2_FOLDER"))
"""The folder with `tasks` and `splits`."""

SPLITS = module_option("tasks.niv2.SPLITS", os.environ.get("T5X_INSTRUCT_NIV2_SPLITS", "default"))
"""Which lists of training and test tasks: the name of a folder in `splits`."""

SHOTS = module_option("tasks.niv2.SHOTS", os.environ.get("T5X_INSTRUCT_NIV2_SHOTS", "2"))
"""How many positive examples stand before the query: 0, 1 or 2."""

MMLU = module_option("tasks.niv2.MMLU", os.environ.get("T5X_INSTRUCT_NIV2_MMLU", "exclude"))
"""'include' puts the tasks made from MMLU into the mixtures, which spoils MMLU as a test."""

MMLU_NUMBERS = frozenset([*range(664, 668), *range(685, 738)])
"""Numbers of the tasks made from MMLU."""

CAP = 100
"""Examples beyond this number do not give a task more weight (Tk-Instruct trains on 100 of each)."""

MAX_SHOTS = 2

TEMPLATE = Template(
    "Definition: {definition}\n\n{examples}Now complete the following example -\nInput: {input}\nOutput: "
)
"""The definition and the input come with their full stops, the positive examples rendered."""


class _Listed(NamedTuple):
    """A task of a split list whose file is there."""

    file: Path
    part: str

    @property
    def name(self) -> str:
        # A few names have a hyphen, which seqio does not allow.
        return re.sub(r"\W", "_", self.file.stem, flags=re.ASCII)

    @property
    def is_from_mmlu(self) -> bool:
        number = re.match(r"task(\d+)_", self.name)
        return number is not None and int(number[1]) in MMLU_NUMBERS


def best_rouge_l(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """ROUGE-L against the best accepted output, named as in the Natural Instructions.

    Args:
        targets: accepted outputs of each example.
        predictions: one text for each example.

    Returns:
        {'rougeL': per cent}.

    Raises:
        DataError: no examples, or lengths that differ.
    """
    return {"rougeL": rouge_l(targets, predictions)["rouge_l"]}


def draw_answer(row: Row, index: int, context: RenderContext, *, task: str) -> dict[str, str]:
    """The answer to learn: one of `answers`, drawn by seed, task, example and variant.

    Args:
        row: a row with `answers`, at least one.
        index: its place in the split.
        context: seed and variant.
        task: the task's name.
    """
    answers = row["answers"]
    return {"answer": answers[draw(len(answers), context.seed, task, index, context.variant, "answer")]}


def register(
    folder: Path, *, splits: str = "default", shots: int = MAX_SHOTS, with_mmlu: bool = False, prefix: str = "niv2"
) -> None:
    """Registers the tasks of a folder and their mixtures.

    Args:
        folder: the folder with `tasks` and `splits`.
        splits: the name of a folder in `splits`.
        shots: how many positive examples to show, 0 to 2.
        with_mmlu: whether mixtures have the tasks made from MMLU.
        prefix: what names of tasks, clusters and mixtures start with.

    Raises:
        ConfigError: no such folder or split lists, or none of their tasks is there.
    """
    mixtures: dict[str, list[str]] = {"train": [], "test": []}
    for listed in _listed(folder, splits):
        name = f"{prefix}_{listed.name}"
        if _register_task(name, listed, shots, prefix) and (with_mmlu or not listed.is_from_mmlu):
            mixtures[listed.part].append(name)
    if not any(mixtures.values()):
        told = "; ".join([f"tasks.niv2.FOLDER is {str(folder)!r}: no task can be used", *report()[:3]])
        raise ConfigError(told)
    for part, names in mixtures.items():
        if names:
            add_mixture(f"{prefix}_{part}", names, rate=proportional(cap=CAP))
    add_mixture(prefix, [*mixtures["train"], *mixtures["test"]], rate=proportional(cap=CAP))


def _register_task(name: str, listed: _Listed, shots: int, prefix: str) -> bool:
    """Registers a task if its file has something to learn from."""
    path = str(listed.file)
    is_test = listed.part == "test"
    head = read_head(path, 1 if is_test else MIN_TO_SPLIT)
    usable = [instance for instance in head.instances if not is_test or instance.position < TEST_INSTANCES]
    if head.definition is None or not usable:
        return False
    parts = {"validation": "test"} if is_test else {"train": "train", "validation": "validation"}
    if not is_test and head.num_inputs < MIN_TO_SPLIT:
        del parts["validation"]
    add_task(
        name,
        cluster=f"{prefix}_{_as_name(head.category)}" if head.category else name,
        source=RowSource(
            {split: functools.partial(rows, path, part, shots) for split, part in parts.items()},
            f"Natural Instructions {listed.file.name}",
        ),
        preprocessors=[RowStep(functools.partial(draw_answer, task=name), {"answer": 0})],
        templates=[TEMPLATE],
        metrics=[best_rouge_l, exact_match],
        dataset="mmlu" if listed.is_from_mmlu else head.source,
    )
    return True


def _as_name(category: str) -> str:
    return re.sub(r"\W+", "_", category.lower()).strip("_")


def _listed(folder: Path, splits: str) -> list[_Listed]:
    """The tasks of the split lists whose files are there."""
    hint = "set the module option tasks.niv2.FOLDER or the environment variable T5X_INSTRUCT_NIV2_FOLDER"
    if not (folder / "tasks").is_dir() or not (folder / "splits").is_dir():
        raise ConfigError(f"tasks.niv2.FOLDER is {str(folder)!r}, which has no folders 'tasks' and 'splits'; {hint}")
    lists = {part: folder / "splits" / splits / f"{part}_tasks.txt" for part in ("train", "test")}
    if not any(path.is_file() for path in lists.values()):
        known = [path.name for path in (folder / "splits").iterdir() if path.is_dir()]
        raise ConfigError(f"tasks.niv2.SPLITS: {unknown('split lists', splits, known)} (in {folder / 'splits'})")
    names = {part: _names_in(path) for part, path in lists.items()}
    both = [
        f"{lists['train']}: {n} is a test task as well: not trained on" for n in names["train"] if n in names["test"]
    ]
    note_problems(str(lists["train"]), both)
    there = {path.stem: path for path in (folder / "tasks").glob("*.json")}
    found = []
    for part in ("train", "test"):
        wanted = [name for name in names[part] if part == "test" or name not in names["test"]]
        present = [_Listed(there[name], part) for name in wanted if name in there]
        found += present
        logging.info("%s: the files of %d of %d tasks are there", lists[part], len(present), len(wanted))
    if not found:
        raise ConfigError(f"tasks.niv2.FOLDER is {str(folder)!r}: no task of splits/{splits} has its file; {hint}")
    return found


def _names_in(path: Path) -> dict[str, None]:
    """The names in a split list, each once, in their order; none if there is no list."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    return dict.fromkeys(name for line in text.splitlines() if (name := line.strip()))


def _register_as_set() -> None:
    """Registers what the module's settings ask for."""
    problems = []
    if not FOLDER:
        problems.append(
            "the folder of the Natural Instructions is not set;"
            " set the module option tasks.niv2.FOLDER or the environment variable T5X_INSTRUCT_NIV2_FOLDER"
        )
    if str(SHOTS) not in [str(n) for n in range(MAX_SHOTS + 1)]:
        problems.append(f"tasks.niv2.SHOTS is {SHOTS!r}; it must be a whole number from 0 to {MAX_SHOTS}")
    if MMLU not in ("exclude", "include"):
        problems.append(f"tasks.niv2.MMLU: {unknown('value', str(MMLU), ['exclude', 'include'])}")
    if problems:
        raise ConfigError(problems)
    register(Path(str(FOLDER)), splits=str(SPLITS), shots=int(str(SHOTS)), with_mmlu=MMLU == "include")


_register_as_set()
