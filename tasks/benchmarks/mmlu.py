"""MMLU: questions with four choices from 57 subjects, asked without and with five exemplars, by rank classification.

The folder (`tasks.benchmarks.mmlu.FOLDER`) is the `data` folder of the authors' archive: `dev/{subject}_dev.csv`,
`val/{subject}_val.csv`, `test/{subject}_test.csv`, each line a question, four choices and the right one's letter.
Tasks: `mmlu_{subject}` with the five questions of `dev` before each, `mmlu_0_shot_{subject}` without; mixtures `mmlu`
and `mmlu_0_shot`. Splits: 'validation' (val) and 'test'.

Source: Hendrycks et al. 2021, Measuring Massive Multitask Language Understanding; github.com/hendrycks/test.
"""

import csv
import functools
import logging
from pathlib import Path
from typing import NamedTuple

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.data.row_shapes import Row
from t5x_instruct.data.tasks import add_mixture
from tasks.benchmarks.registry import add_benchmark, folder_of, text_of

LETTERS = ("A", "B", "C", "D")
SHOTS = 5
_SUBJECTS = (
    "abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology college_chemistry"
    " college_computer_science college_mathematics college_medicine college_physics computer_security"
    " conceptual_physics econometrics electrical_engineering elementary_mathematics formal_logic global_facts"
    " high_school_biology high_school_chemistry high_school_computer_science high_school_european_history"
    " high_school_geography high_school_government_and_politics high_school_macroeconomics high_school_mathematics"
    " high_school_microeconomics high_school_physics high_school_psychology high_school_statistics"
    " high_school_us_history high_school_world_history human_aging human_sexuality international_law jurisprudence"
    " logical_fallacies machine_learning management marketing medical_genetics miscellaneous moral_disputes"
    " moral_scenarios nutrition philosophy prehistory professional_accounting professional_law professional_medicine"
    " professional_psychology public_relations security_studies sociology us_foreign_policy virology world_religions"
)
SUBJECTS = tuple(_SUBJECTS.split())

FOLDER = folder_of("mmlu", "dev, val and test of MMLU's `data` folder")
"""The folder with the files."""


class Question(NamedTuple):
    """A question as the files have it; `answer` is a letter."""

    text: str
    choices: list[str]
    answer: str

    def asked(self) -> str:
        """The question with its lettered choices, up to where the answer goes."""
        lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, self.choices, strict=True)]
        return "\n".join([self.text, *lines, "Answer:"])


def questions(path: Path) -> list[Question]:
    """Reads a file.

    Raises:
        DataError: it cannot be read; a line is not a question, four choices and a letter, with its number.
    """
    found = []
    for number, cells in enumerate(csv.reader(text_of(path).splitlines(keepends=True)), start=1):
        if len(cells) != 6 or cells[5].strip() not in LETTERS:
            raise DataError(
                f"{path}, question {number}: expected a question, four choices and a letter from A to D,"
                f" got {len(cells)} columns: {cells}"
            )
        text, *choices, answer = (cell.strip() for cell in cells)
        found.append(Question(text, choices, answer))
    return found


def rows(path: Path, subject: str, dev: Path | None) -> list[Row]:
    """The rows of a subject.

    Args:
        path: the file of the questions.
        subject: one of `SUBJECTS`.
        dev: the file whose first five questions stand before each; None: none do.

    Raises:
        DataError: see `questions`; `dev` has fewer than five.
    """
    exemplars = questions(dev)[:SHOTS] if dev else []
    if dev and len(exemplars) < SHOTS:
        raise DataError(f"{dev} has {len(exemplars)} questions, {SHOTS} are needed as exemplars")
    name = subject.replace("_", " ")
    opening = f"Every question is about {name} and has one right choice; give its letter.\n\n"
    before = opening + "".join(f"{one.asked()}\n{one.answer}\n\n" for one in exemplars)
    return [
        {
            "question": one.text,
            "choices": one.choices,
            "prompt": before + one.asked(),
            "options": list(LETTERS),
            "answer": one.answer,
        }
        for one in questions(path)
    ]


def _path(subject: str, split: str) -> Path:
    return FOLDER / split / f"{subject}_{split}.csv"


def _register() -> None:
    found = [subject for subject in SUBJECTS if _path(subject, "test").is_file()]
    if not found:
        raise ConfigError(f"tasks.benchmarks.mmlu.FOLDER is {str(FOLDER)!r}, which has no test/SUBJECT_test.csv")
    if len(found) < len(SUBJECTS):
        logging.warning("mmlu: %d of %d subjects have files in %s", len(found), len(SUBJECTS), FOLDER)
    for cluster, shown in (("mmlu", True), ("mmlu_0_shot", False)):
        for subject in found:
            splits = {"validation": "val", "test": "test"}
            add_benchmark(
                f"{cluster}_{subject}",
                cluster=cluster,
                dataset=f"mmlu/{subject}",
                splits={
                    name: functools.partial(rows, path, subject, _path(subject, "dev") if shown else None)
                    for name, split in splits.items()
                    if (path := _path(subject, split)).is_file()
                },
                where=_path(subject, "test"),
            )
        add_mixture(cluster, [f"{cluster}_{subject}" for subject in found], rate=1.0)


_register()
