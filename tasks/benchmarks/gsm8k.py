"""GSM8K: arithmetic word problems, asked alone and after eight solved ones.

The folder (`tasks.benchmarks.gsm8k.FOLDER`) has the authors' `test.jsonl`, each line {"question", "answer"}, where the
answer ends with '#### NUMBER', and for exemplars `train.jsonl`, of which the first eight are shown. Tasks:
`gsm8k_0_shot` and, where `train.jsonl` is there, `gsm8k_8_shot`; mixture `gsm8k`. Split: 'test'. An answer is the last
number.

Source: Cobbe et al. 2021, Training Verifiers to Solve Math Word Problems; github.com/openai/grade-school-math.
"""

import functools
import itertools
import re
from pathlib import Path
from typing import NamedTuple

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.data.row_shapes import Row
from t5x_instruct.data.sources import read_jsonl
from t5x_instruct.data.tasks import add_mixture
from t5x_instruct.evaluation.metrics import exact_match
from tasks.benchmarks.final_answers import as_number, last_number
from tasks.benchmarks.registry import add_benchmark, folder_of

SHOTS = 8
END = "####"
CALCULATOR = re.compile(r"<<[^>]*>>")  # the authors' marks for a calculator
INSTRUCTION = "Work each problem out in words; the last sentence gives the answer as a number.\n\n"

FOLDER = folder_of("gsm8k", "test.jsonl, and train.jsonl for exemplars, of GSM8K")
"""The folder with the files."""


class Problem(NamedTuple):
    """A problem with its solution and the number it comes to."""

    question: str
    solution: str
    answer: str


def problems(path: Path, most: int | None = None) -> list[Problem]:
    """Reads the first problems of a file.

    Raises:
        DataError: it cannot be read, or an answer does not end with '#### NUMBER', with its place.
    """
    found = []
    for row, place in itertools.islice(read_jsonl(str(path)), most):
        if not all(isinstance(row.get(name), str) for name in ("question", "answer")):
            raise DataError(f"{place}: expected texts 'question' and 'answer', got {sorted(row)}")
        solution, _, number = row["answer"].rpartition(END)
        if not solution or not last_number(number):
            raise DataError(f"{place}: the answer does not end with '{END} NUMBER': {row['answer'][-60:]!r}")
        text = CALCULATOR.sub("", solution).strip()
        found.append(Problem(row["question"].strip(), text, last_number(number)))
    return found


def rows(path: Path, solved: Path | None) -> list[Row]:
    """The rows of a file, each after the first eight problems of the file `solved`, if any; errors of `problems`."""
    exemplars = problems(solved, SHOTS) if solved else []
    shown = [f"Problem: {one.question}\nSolution:\n{one.solution}\nThe answer is {one.answer}." for one in exemplars]
    before = INSTRUCTION + "".join(f"{text}\n\n" for text in shown)
    return [
        {"question": one.question, "prompt": f"{before}Problem: {one.question}\nSolution:", "answer": one.answer}
        for one in problems(path)
    ]


def _register() -> None:
    path, solved = FOLDER / "test.jsonl", FOLDER / "train.jsonl"
    if not path.is_file():
        raise ConfigError(f"tasks.benchmarks.gsm8k.FOLDER is {str(FOLDER)!r}, which has no test.jsonl")
    shots = [0, SHOTS] if solved.is_file() else [0]
    for count in shots:
        add_benchmark(
            f"gsm8k_{count}_shot",
            cluster="gsm8k",
            dataset="gsm8k",
            splits={"test": functools.partial(rows, path, solved if count else None)},
            where=path,
            metrics=[exact_match],
            postprocess_fn=as_number,
        )
    add_mixture("gsm8k", [f"gsm8k_{count}_shot" for count in shots], rate=1.0)


_register()
