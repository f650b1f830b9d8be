"""BIG-Bench Hard: 27 tasks asked directly and by chain of thought, three exemplars each.

The folder (`tasks.benchmarks.bbh.FOLDER`) is the authors' repository: `bbh/{task}.json` with {"examples": [{"input",
"target"}, ...]}, and `cot-prompts/{task}.txt` with what the task is and three solved questions. Tasks:
`bbh_{task}` answers at once (its exemplars are the same without their reasoning) and `bbh_cot_{task}`; mixtures `bbh`
and `bbh_cot`. Split: 'test'.

Where a question lists its choices, or all answers of a task are the same two or three, rows have `options`, from which
the accuracy of guessing follows.

Source: Suzgun et al. 2022, Challenging BIG-Bench Tasks and Whether Chain-of-Thought Can Solve Them;
github.com/suzgunmirac/BIG-Bench-Hard.
"""

import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.data.row_shapes import Row
from t5x_instruct.data.tasks import add_mixture
from t5x_instruct.evaluation.metrics import exact_match
from tasks.benchmarks.final_answers import as_answer, last_answer
from tasks.benchmarks.registry import add_benchmark, folder_of, text_of

SHOTS = 3
FEW_ANSWERS = 3
RULE = re.compile(r"^-{3,}\s*$", re.MULTILINE)
LETTERED = re.compile(r"^(\([A-Z]\)) ", re.MULTILINE)
LISTED = re.compile(r"^- (.+)$", re.MULTILINE)
REASONING = "Think it through step by step, then give the answer."

FOLDER = folder_of("bbh", "the folders bbh and cot-prompts of BIG-Bench Hard")
"""The folder with the files."""


class Solved(NamedTuple):
    """A solved question of a prompt file: the question, the whole solution, and its last words, the answer."""

    question: str
    solution: str
    answer: str


def solved_questions(path: Path) -> tuple[str, list[Solved]]:
    """Reads a prompt file.

    Args:
        path: the file. What stands above a line of hyphens is not part of the prompt.

    Returns:
        What the task is, and its solved questions.

    Raises:
        DataError: it cannot be read, or has fewer than three solved questions.
    """
    text = RULE.split(text_of(path), maxsplit=1)[-1].strip()
    about, *blocks = re.split(r"\n\s*\nQ: ", text)
    found = []
    for block in blocks:
        question, _, solution = block.partition("\nA: ")
        if solution:
            found.append(Solved(question.strip(), solution.strip(), last_answer(solution)))
    if len(found) < SHOTS:
        raise DataError(
            f"{path}: {len(found)} solved questions ('Q: ...' and 'A: ...' after an empty line), not {SHOTS}"
        )
    return about.strip(), found[:SHOTS]


def examples(path: Path) -> list[tuple[str, str]]:
    """Reads the questions and answers of a task.

    Raises:
        DataError: it cannot be read, or is not of the layout, with the example's number.
    """
    try:
        content = json.loads(text_of(path))
        listed = content["examples"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a JSON object with 'examples': {error}") from error
    found = []
    for number, one in enumerate(listed):
        if not isinstance(one, dict) or not all(isinstance(one.get(name), str) for name in ("input", "target")):
            raise DataError(f"{path}, example {number}: expected texts 'input' and 'target', got {one!r}")
        found.append((one["input"].strip(), one["target"].strip()))
    return found


def options_of(question: str, answer: str, answers: Sequence[str]) -> list[str]:
    """The choices of a question: those it lists, or all answers of its task where they are few; [] if it is open."""
    _, listed, below = question.partition("Options:")
    for choices in (LETTERED.findall(below), LISTED.findall(below)) if listed else ():
        if answer in choices:
            return [choice.strip() for choice in choices]
    few = sorted(set(answers))
    return few if 1 < len(few) <= FEW_ANSWERS else []


def rows(path: Path, prompts: Path, reasoned: bool) -> list[Row]:
    """The rows of a task.

    Args:
        path: the file of its questions.
        prompts: the file of its exemplars.
        reasoned: with the reasoning of the exemplars.

    Raises:
        DataError: see `examples` and `solved_questions`.
    """
    about, solved = solved_questions(prompts)
    instruction = f"{about}\n{REASONING}" if reasoned else about
    shown = [f"Q: {one.question}\nA:\n{one.solution if reasoned else one.answer}" for one in solved]
    before = "\n\n".join([instruction, *shown])
    asked = examples(path)
    answers = [answer for _, answer in asked]
    return [
        {
            "question": question,
            "prompt": f"{before}\n\nQ: {question}\nA:",
            "options": options_of(question, answer, answers),
            "answer": answer,
        }
        for question, answer in asked
    ]


def _register() -> None:
    found = sorted(path.stem for path in (FOLDER / "bbh").glob("*.json"))
    if not found:
        raise ConfigError(f"tasks.benchmarks.bbh.FOLDER is {str(FOLDER)!r}, which has no bbh/TASK.json")
    for cluster, reasoned in (("bbh", False), ("bbh_cot", True)):
        for task in found:
            path, prompts = FOLDER / "bbh" / f"{task}.json", FOLDER / "cot-prompts" / f"{task}.txt"
            add_benchmark(
                f"{cluster}_{task}",
                cluster=cluster,
                dataset=f"bbh/{task}",
                splits={"test": functools.partial(rows, path, prompts, reasoned)},
                where=path,
                metrics=[exact_match],
                postprocess_fn=as_answer,
            )
        add_mixture(cluster, [f"{cluster}_{task}" for task in found], rate=1.0)


_register()
