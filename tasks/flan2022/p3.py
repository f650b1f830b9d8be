"""The Public Pool of Prompts (P3), as far as its data sets are not in FLAN 2021: `t0_...`.

Which of its many hundreds of prompted sets are used is said by an index file of your own, named by the module option
`tasks.flan2022.P3_INDEX`: a line for each, `dataset`, `subset` (may be empty) and `template`, parted by tabs, as in

    cos_e	v1.11	question_option_description_text
    quail		context_question_answer_description_text

Those of FLAN 2021 are left out and told. The rows come from `bigscience/P3` on the Hugging Face hub (extra `hf`) when
they are first read, or from the folder `tasks.flan2022.P3_FOLDER`, which has a folder for each set (named as on the
hub, such as `cos_e_v1.11_question_option_description_text`) with Parquet or JSONL files or what `save_to_disk` wrote.

Source: Sanh et al. 2022, Multitask Prompted Training Enables Zero-Shot Task Generalization.
"""

import functools
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from t5x_instruct.common.errors import ConfigError, DataError, SourceUnavailable
from t5x_instruct.data.hub_sources import read_dataset
from t5x_instruct.data.row_shapes import Placed, Row, shortened
from t5x_instruct.data.sources import RowSource
from t5x_instruct.data.tasks import add_task
from t5x_instruct.evaluation.metrics import exact_match

HUB = "bigscience/P3"

# fmt: off
IN_FLAN = frozenset({
    "ag_news", "ai2_arc", "anli", "cnn_dailymail", "common_gen", "coqa", "cosmos_qa", "drop", "gigaword", "glue",
    "hellaswag", "imdb", "multi_news", "newsroom", "openbookqa", "paws", "piqa", "quac", "samsum", "sentiment140",
    "snli", "squad", "squad_v2", "story_cloze", "super_glue", "trec", "trivia_qa", "winogrande", "xsum",
    "yelp_polarity", "yelp_review_full",
})
# fmt: on
"""Data sets of the hub that FLAN 2021 has, one of them (yelp_review_full) with other labels for the same reviews."""

TEMPLATES = ("{prompt}",)


class Prompted(NamedTuple):
    """A data set under one of P3's templates."""

    dataset: str
    subset: str
    template: str

    @property
    def config(self) -> str:
        """Its name on the hub."""
        return re.sub(r"[^\w.]+", "_", "_".join(filter(None, self)), flags=re.ASCII)

    @property
    def task(self) -> str:
        """The name of its task."""
        return "t0_" + re.sub(r"\W+", "_", self.config, flags=re.ASCII)


def read_index(path: str) -> list[Prompted]:
    """Reads an index file.

    Args:
        path: the file; empty lines and those that start with '#' are passed over.

    Returns:
        What it lists, without what FLAN 2021 has, each once.

    Raises:
        ConfigError: the file cannot be read, a line has not three columns, or nothing is left.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"tasks.flan2022.P3_INDEX is {path!r}, which cannot be read: {error}") from error
    listed, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        columns = [column.strip() for column in line.split("\t")]
        if len(columns) != 3 or not columns[0] or not columns[2]:
            problems.append(f"{path}:{number}: {line!r} is not dataset, subset and template, parted by tabs")
        else:
            listed.append(Prompted(*columns))
    if problems:
        raise ConfigError(problems)
    kept = {one.task: one for one in listed if one.dataset not in IN_FLAN}
    in_flan = sum(one.dataset in IN_FLAN for one in listed)
    if in_flan:
        logging.info("%s: %d of %d sets are left out, because FLAN 2021 has their data", path, in_flan, len(listed))
    if not kept:
        raise ConfigError(
            f"{path} lists {len(listed)} sets, of which FLAN 2021 has {in_flan}: none is left; add others"
        )
    return list(kept.values())


def rows(folder: str | None, config: str) -> Iterator[Placed]:
    """Reads a prompted set.

    Where a set has choices and its prompt does not show them all, they are the row's options.

    Args:
        folder: where the sets lie, or None for the hub.
        config: the set's name.

    Yields:
        Rows with `prompt`, `answer` and `options` (which may be empty), with their places; empty ones are left out.

    Raises:
        SourceUnavailable: the set is neither in the folder nor to be had from the hub.
        DataError: a row is not one of P3.
    """
    where, of_hub = (HUB, config) if folder is None else (str(Path(folder) / config), None)
    if folder is not None and not Path(where).is_dir():
        fix = "put it there, or take its line out of tasks.flan2022.P3_INDEX"
        raise SourceUnavailable(f"the set {config!r} of P3 is not in {folder}", fix)
    given = read_dataset(where, "train", config=of_hub)
    try:
        first = next(given, None)
    except (DataError, ConfigError) as error:
        fix = "go online, install the extra 'hf', or name a folder by tasks.flan2022.P3_FOLDER"
        raise SourceUnavailable(f"the set {config!r} of P3 cannot be had ({error})", fix) from error
    while first is not None:
        row = _row(first.row, first.place)
        if row is not None:
            yield Placed(row, first.place)
        first = next(given, None)


def _row(row: Row, place: str) -> Row | None:
    prompt, answer = row.get("inputs_pretokenized"), row.get("targets_pretokenized")
    if not isinstance(prompt, str) or not isinstance(answer, str):
        raise DataError(
            f"{place}: not a row of P3, whose texts are 'inputs_pretokenized' and 'targets_pretokenized':"
            f" {shortened(row)}"
        )
    prompt, answer = prompt.strip(), answer.strip()
    if not prompt or not answer:
        return None
    options = [str(choice).strip() for choice in row.get("answer_choices") or ()]
    shown_already = all(option in prompt for option in options)
    usable = answer in options and not shown_already
    return {"prompt": prompt, "answer": answer, "options": options if usable else []}


def register(listed: Sequence[Prompted], folder: str | None) -> list[str]:
    """Registers a task for each set, in a cluster for each data set.

    Args:
        listed: the sets.
        folder: see `rows`.

    Returns:
        The names of the tasks.
    """
    for one in listed:
        add_task(
            one.task,
            cluster=f"t0_{re.sub(r'[^a-z0-9]+', '_', one.dataset.lower())}",
            source=RowSource({"train": functools.partial(rows, folder, one.config)}, f"P3 {one.config}"),
            templates=TEMPLATES,
            metrics=[exact_match],
            options="shown",
            dataset=f"hf:{one.dataset}/{one.subset}".removesuffix("/"),
        )
    return [one.task for one in listed]
