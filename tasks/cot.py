"""The chain-of-thought tasks of the FLAN collection, read from its files.

Each data set is one file `{NAME}_train.tsv` without header: question, answer, explanation, parted by
tabs, with a backslash and an 'n' where a line break belongs. Put the files into one folder and name
it by the module option `tasks.cot.FOLDER` or by the environment variable T5X_INSTRUCT_COT_FOLDER.
Tasks are registered for the files that are there: `cot_gsm8k`, `cot_strategyqa` and so on, each its
own cluster, and the mixture `cot`.

Source: github.com/google-research/FLAN, flan/v2/cot_data; Chung et al. 2022, Scaling
Instruction-Finetuned Language Models. The templates are this project's own.
"""

import collections
import functools
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.data.sources import Placed, RowSource, in_validation, read_tsv
from t5x_instruct.data.task_modules import module_option
from t5x_instruct.data.tasks import accept_answers, add_mixture, add_task, proportional
from t5x_instruct.evaluation.metrics import exact_match
from t5x_instruct.templates.prompts import Template

FOLDER = module_option("tasks.cot.FOLDER", os.environ.get("T5X_INSTRUCT_COT_FOLDER"))
"""The folder with the files."""

DATASETS = ("aqua", "creak", "ecqa", "esnli", "gsm8k", "qasc", "qed", "sensemaking", "strategyqa")
CAP = 100_000
"""Examples beyond this number do not give a task more weight (as in the FLAN collection)."""

VALIDATION_PERCENT = 5
MARKER = "The answer is"
"""What stands before the answer where an explanation comes first."""

BAD_LINES: collections.Counter[str] = collections.Counter()
"""How many lines of each file were skipped when it was last read, by the file's path."""

_EXPLAINED = "{explanation}\n" + MARKER + " {answer}."
TEMPLATES = [
    Template("{question}\nThink step by step, then answer.", _EXPLAINED),
    Template("Solve this and explain how. Begin with the reasoning.\n\n{question}", _EXPLAINED),
    Template("Question: {question}\nReasoning and answer:", _EXPLAINED),
    Template(
        f'{{question}}\n\nFirst write down your thoughts, then a last line that starts with "{MARKER}".',
        _EXPLAINED,
    ),
    Template("Let us reason before we decide.\n{question}", _EXPLAINED),
    Template("{question}\nGive the final answer only."),
    Template("Question: {question}\nAnswer:"),
    Template("Answer without any explanation.\n\n{question}"),
]


def final_answer(output: str, *, example: Mapping[str, Any] | None = None, is_target: bool = False) -> str | list[str]:
    """The answer in a text: what follows the last `MARKER` up to the line's end, else the whole text.

    Args:
        output: the target or the prediction.
        example: the example, for its accepted targets.
        is_target: whether `output` is the target.

    Returns:
        The answer of a prediction; the accepted answers of a target.
    """
    accepted = accept_answers(output, example=example, is_target=is_target)
    return _answer_in(accepted) if isinstance(accepted, str) else [_answer_in(a) for a in accepted]


def _answer_in(text: str) -> str:
    _, found, rest = text.rpartition(MARKER)
    if not found:
        return text.strip()
    first_line = rest.strip().partition("\n")[0]
    return first_line.strip().removesuffix(".")


def rows(path: str, split: str) -> Iterable[Placed]:
    """Reads one split of a file; lines with the wrong number of columns are reported and skipped.

    Args:
        path: the file.
        split: 'train' or 'validation'; the question decides which a row belongs to.

    Yields:
        Rows with `question`, `answer` and `explanation`, with their places.

    Raises:
        DataError: the file cannot be read.
    """
    BAD_LINES[path] = 0
    for row, place in read_tsv(path, ("question", "answer", "explanation"), functools.partial(_skip, path)):
        texts = {name: text.replace("\\n", "\n").strip() for name, text in row.items()}
        if in_validation(texts["question"], VALIDATION_PERCENT) == (split == "validation"):
            yield Placed(texts, place)
    if BAD_LINES[path]:
        logging.warning("%s: %d lines were skipped", path, BAD_LINES[path])


def _skip(path: str, error: DataError) -> None:
    BAD_LINES[path] += 1
    logging.warning("skipped: %s", error)


def _files() -> dict[str, str]:
    """The path of each data set that is in the folder."""
    hint = "set the module option tasks.cot.FOLDER or the environment variable T5X_INSTRUCT_COT_FOLDER"
    if not FOLDER:
        raise ConfigError(f"the folder of the chain-of-thought files is not set; {hint}")
    paths = {name: Path(FOLDER) / f"{name}_train.tsv" for name in DATASETS}
    found = {name: str(path) for name, path in paths.items() if path.is_file()}
    if not found:
        wanted = ", ".join(path.name for path in paths.values())
        raise ConfigError(f"tasks.cot.FOLDER is {FOLDER!r}, which has none of {wanted}; {hint}")
    return found


for _name, _path in _files().items():
    add_task(
        f"cot_{_name}",
        cluster=f"cot_{_name}",
        source=RowSource({s: functools.partial(rows, _path, s) for s in ("train", "validation")}, f"TSV {_path}"),
        templates=TEMPLATES,
        metrics=[exact_match],
        postprocess_fn=final_answer,
    )

add_mixture("cot", [f"cot_{name}" for name in _files()], rate=proportional(cap=CAP))
