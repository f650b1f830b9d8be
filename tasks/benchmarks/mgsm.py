"""MGSM: arithmetic word problems in eleven languages, each after solved problems in its own language.

The folder (`tasks.benchmarks.mgsm.FOLDER`) is the authors': `mgsm_{language}.tsv`, each line a problem and a number,
and `exemplars.py`, whose table MGSM_EXEMPLARS has for each language problems 'q' and solutions 'a'; the table is read
as data, the file is not run. Tasks: `mgsm_{language}`; mixture `mgsm`. Split: 'test'. An answer is the last number.

Source: Shi et al. 2022, Language Models are Multilingual Chain-of-Thought Reasoners;
github.com/google-research/url-nlp.
"""

import ast
import functools
import re
from collections.abc import Mapping
from pathlib import Path

from t5x_instruct.common.errors import ConfigError, DataError, unknown
from t5x_instruct.data.row_shapes import Row
from t5x_instruct.data.sources import read_tsv
from t5x_instruct.data.tasks import add_mixture
from t5x_instruct.evaluation.metrics import exact_match
from tasks.benchmarks.final_answers import as_number, last_number
from tasks.benchmarks.registry import add_benchmark, folder_of, text_of

SHOTS = 8
TABLE = "MGSM_EXEMPLARS"
HEADING = re.compile(r"\s*[^:：\n]{1,60}[:：]\s*")  # 'Question: ', in each language its own words

FOLDER = folder_of("mgsm", "mgsm_LANGUAGE.tsv and exemplars.py of MGSM")
"""The folder with the files."""


def solved_problems(path: Path, language: str) -> list[tuple[str, str]]:
    """The problems with solutions of a language, as (problem, solution) with their headings.

    Raises:
        DataError: the file cannot be read, has no such table, or not this language.
    """
    tables = [
        node.value
        for node in _tree(path).body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == TABLE for t in node.targets)
    ]
    if not tables:
        raise DataError(f"{path} has no table {TABLE}")
    try:
        table = ast.literal_eval(tables[-1])
        if language not in table:
            raise DataError(f"{path}, {TABLE}: {unknown('language', language, table)}")
        numbered: Mapping[str, Mapping[str, str]] = table[language]
        return [(numbered[key]["q"].strip(), numbered[key]["a"].strip()) for key in sorted(numbered, key=int)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: {TABLE} is not a table of texts: {type(error).__name__}: {error}") from error


def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(text_of(path))
    except (SyntaxError, ValueError) as error:
        raise DataError(f"{path} is not a Python file: {error}") from error


def rows(path: Path, exemplars: Path, language: str) -> list[Row]:
    """The rows of a language.

    Args:
        path: the file of its problems.
        exemplars: the file of the solved problems of all languages.
        language: its code.

    Raises:
        DataError: see `solved_problems`; a line without a number, with its place.
    """
    solved = solved_problems(exemplars, language)[:SHOTS]
    before = "".join(f"{problem}\n{_below_heading(solution)}\n\n" for problem, solution in solved)
    ask, reply = (_heading(text) for text in solved[0]) if solved else ("", "")
    found: list[Row] = []
    for row, place in read_tsv(str(path), ("question", "answer")):
        answer = last_number(row["answer"])
        if not answer:
            raise DataError(f"{place}: the answer {row['answer']!r} is no number")
        question = row["question"].strip()
        found.append({"question": question, "prompt": f"{before}{ask}{question}\n{reply}".rstrip(), "answer": answer})
    return found


def _heading(text: str) -> str:
    found = HEADING.match(text)
    return found[0] if found else ""


def _below_heading(text: str) -> str:
    """A solution with its heading on a line of its own, where the heading of what is asked stands too."""
    heading = _heading(text)
    return f"{heading.rstrip()}\n{text.removeprefix(heading)}" if heading else text


def _register() -> None:
    languages = sorted(path.stem.removeprefix("mgsm_") for path in FOLDER.glob("mgsm_*.tsv"))
    if not languages:
        raise ConfigError(f"tasks.benchmarks.mgsm.FOLDER is {str(FOLDER)!r}, which has no mgsm_LANGUAGE.tsv")
    for language in languages:
        path = FOLDER / f"mgsm_{language}.tsv"
        add_benchmark(
            f"mgsm_{language}",
            cluster="mgsm",
            dataset=f"mgsm/{language}",
            splits={"test": functools.partial(rows, path, FOLDER / "exemplars.py", language)},
            where=path,
            metrics=[exact_match],
            postprocess_fn=as_number,
        )
    add_mixture("mgsm", [f"mgsm_{language}" for language in languages], rate=1.0)


_register()
