"""The chain-of-thought tasks of the FLAN collection, read from its files.

Each data set is one file `{NAME}_train.tsv` without header: question, answer, explanation, parted by
tabs, with a backslash and an 'n' where a line break belongs. Put the files into one folder and name
it by the module option `tasks.cot.FOLDER` or by the environment variable T5X_INSTRUCT_COT_FOLDER.
Tasks are registered for the files that are there: `cot_gsm8k`, `cot_strategyqa` and so on, each its
own cluster, and the mixture `cot`, which asks for an explanation in some examples and for the answer alone in others.

As in the FLAN collection there are further forms of each task, in which the answer always comes after the explanation:
`cot_gsm8k_zsopt` (zero-shot), `cot_gsm8k_fsopt` (behind solved examples), and for both the inverted `..._ii_zsopt` and
`..._ii_fsopt` (write the explanation to an answer, or the question to an explanation), which count 0.3 times as much.
Where a question has options, its text in the file shows them. The mixtures are `cot_zsopt` and `cot_fsopt`.

Source: github.com/google-research/FLAN, flan/v2/cot_data; Chung et al. 2022, Scaling
Instruction-Finetuned Language Models. The templates are this project's own.
"""

import collections
import functools
import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.data.sources import Placed, RowSource, in_validation, read_tsv
from t5x_instruct.data.task_modules import module_option
from t5x_instruct.data.tasks import accept_answers, add_mixture, add_rendering, add_task, proportional
from t5x_instruct.evaluation.metrics import exact_match, rouge_l
from t5x_instruct.templates.prompts import Template

FOLDER = module_option("tasks.cot.FOLDER", os.environ.get("T5X_INSTRUCT_COT_FOLDER"))
"""The folder with the files."""

DATASETS = ("aqua", "creak", "ecqa", "esnli", "gsm8k", "qasc", "qed", "sensemaking", "strategyqa")
CAP = 100_000
"""Examples beyond this number do not give a task more weight (as in the FLAN collection)."""

VALIDATION_PERCENT = 5
MARKER = "The answer is"
"""What stands before the answer where an explanation comes first, perhaps within a sentence."""

INVERTED_SHARE = 0.3
"""How much an inverted task counts, compared with the one it belongs to."""

SHOTS = (1, 5)

BAD_LINES: collections.Counter[str] = collections.Counter()
"""How many lines of each file were skipped when it was last read, by the file's path."""

_ON_A_LINE = "{explanation}\n" + MARKER + " {answer}."
_SO = "{explanation} So the answer is {answer}."
_THEREFORE = "{explanation}\nTherefore the answer is {answer}."

EXPLAINED = [
    Template("{question}\nThink step by step, then answer.", _ON_A_LINE),
    Template("Solve this and explain how. Begin with the reasoning.\n\n{question}", _SO),
    Template("Question: {question}\nReasoning and answer:", _ON_A_LINE),
    Template(
        f'{{question}}\n\nFirst write down your thoughts, then a last line that starts with "{MARKER}".', _ON_A_LINE
    ),
    Template("Let us reason before we decide.\n{question}", _SO),
    Template("Work out the answer to the following and show how you get there.\n\n{question}", _THEREFORE),
    Template("{question}\n\nDo not answer at once: say what you know and what follows from it.", _SO),
    Template("Here is a question that takes some thinking: {question}\nYour train of thought, and the answer:", _SO),
    Template("Q: {question}\nA (with reasons):", _SO),
    Template("I need the answer with its justification, please. {question}", _THEREFORE),
]
"""Instructions that want the reasoning first and the answer after it."""

DIRECT = [
    Template("{question}\nGive the final answer only."),
    Template("Question: {question}\nAnswer:"),
    Template("Answer without any explanation.\n\n{question}"),
]
"""Instructions that want the answer alone."""

INVERTED = [
    Template("{question}\nThe right answer is {answer}. Why?", "{explanation}"),
    Template("Question: {question}\nAnswer: {answer}\nGive the reasoning that leads there:", "{explanation}"),
    Template("Explain how one finds that the answer to the following is {answer}.\n\n{question}", "{explanation}"),
    Template(
        'Somebody answered a question with "{answer}".\n\n{question}\n\nWrite the thoughts behind it.',
        "{explanation}",
    ),
    Template("{question}\nReason about this, but leave the conclusion to me.", "{explanation}"),
    Template("This is how a question was reasoned about:\n{explanation}\nWhat was the question?", "{question}"),
    Template("Reasoning: {explanation}\nQuestion:", "{question}"),
    Template("Think of a question that is answered by {answer}, because: {explanation}", "{question}"),
    Template("{explanation}\n\nSo the answer is {answer}. Write the question that was asked.", "{question}"),
]
"""Instructions that give the answer or the explanation and want what belongs to it."""


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
    found = list(re.finditer(re.escape(MARKER), text, re.IGNORECASE))
    if not found:
        return text.strip()
    first_line = text[found[-1].end() :].strip().partition("\n")[0]
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


def files() -> dict[str, str]:
    """The path of each data set that is in the folder, by its name.

    Raises:
        ConfigError: the folder is not set, or has none.
    """
    hint = "set the module option tasks.cot.FOLDER or the environment variable T5X_INSTRUCT_COT_FOLDER"
    if not FOLDER:
        raise ConfigError(f"the folder of the chain-of-thought files is not set; {hint}")
    paths = {name: Path(FOLDER) / f"{name}_train.tsv" for name in DATASETS}
    found = {name: str(path) for name, path in paths.items() if path.is_file()}
    if not found:
        wanted = ", ".join(path.name for path in paths.values())
        raise ConfigError(f"tasks.cot.FOLDER is {FOLDER!r}, which has none of {wanted}; {hint}")
    return found


def _register(name: str, path: str) -> None:
    """Registers a data set's task and its other forms."""
    task = f"cot_{name}"
    add_task(
        task,
        cluster=task,
        source=RowSource({s: functools.partial(rows, path, s) for s in ("train", "validation")}, f"TSV {path}"),
        templates=[*EXPLAINED, *DIRECT],
        metrics=[exact_match],
        postprocess_fn=final_answer,
        dataset=name,
    )
    for form, shots in (("zsopt", (0, 0)), ("fsopt", SHOTS)):
        add_rendering(f"{task}_{form}", task, templates=EXPLAINED, shots=shots)
        add_rendering(
            f"{task}_ii_{form}",
            task,
            templates=INVERTED,
            shots=shots,
            metrics=[rouge_l],
            postprocess_fn=accept_answers,
        )


def _register_as_set() -> None:
    """Registers what is in the module's folder."""
    found = files()
    for name, path in found.items():
        _register(name, path)
    add_mixture("cot", [f"cot_{name}" for name in found], rate=proportional(cap=CAP))
    inverted = proportional(cap=CAP, scale=INVERTED_SHARE)
    for form in ("zsopt", "fsopt"):
        parts = [f"cot_{name}_{form}" for name in found]
        parts_inverted = [(f"cot_{name}_ii_{form}", inverted) for name in found]
        add_mixture(f"cot_{form}", [*parts, *parts_inverted], rate=proportional(cap=CAP))


_register_as_set()
