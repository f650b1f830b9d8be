"""Which tasks show the same data: what is evaluated must not have been trained on in another guise."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.data.prepared import PreparedTask

#: Names under which collections publish a data set again: with other splits, labels, explanations or languages.
#: Letters and digits of each part, as `_path` compares names.
SAME_DATA = {
    "agnews": "agnewssubset",
    "aquarat": "aqua",
    "boolq": "superglue/boolq",
    "cb": "superglue/cb",
    "cola": "glue/cola",
    "commitmentbank": "superglue/cb",
    "comve": "sensemaking",
    "copa": "superglue/copa",
    "cose": "commonsenseqa",
    "dpr": "definitepronounresolution",
    "e2e": "e2enlg",
    "e2enlgcleaned": "e2enlg",
    "ecqa": "commonsenseqa",
    "eqasc": "qasc",
    "esnli": "snli",
    "gem/commongen": "commongen",
    "gem/dart": "dart",
    "gem/e2enlg": "e2enlg",
    "gem/webnlgen": "webnlg/en",
    "gem/wikilinguaenglishen": "wikilingua/english",
    "glue/mnlimatched": "glue/mnli",
    "glue/mnlimismatched": "glue/mnli",
    "glue/rte": "superglue/rte",
    "hendryckstest": "mmlu",
    "imdb": "imdbreviews",
    "kilttasks/hotpotqa": "hotpotqa",
    "mathmaticsdataset": "mathdataset",
    "measuringmassivemultitasklanguageunderstanding": "mmlu",
    "mgsm": "gsm8k",
    "mnli": "glue/mnli",
    "mrpc": "glue/mrpc",
    "multinli": "glue/mnli",
    "multirc": "superglue/multirc",
    "naturalquestionsopen": "naturalquestions",
    "nqopen": "naturalquestions",
    "paws": "pawswiki",
    "pawsx": "pawswiki",
    "pawsxwiki": "pawswiki",
    "qed": "naturalquestions",
    "qnli": "glue/qnli",
    "qqp": "glue/qqp",
    "quoraquestionpairs": "glue/qqp",
    "record": "superglue/record",
    "rte": "superglue/rte",
    "squad/v11": "squad",
    "squad/v20": "squad",
    "squad11": "squad",
    "squad20": "squad",
    "squadv2": "squad",
    "sst2": "glue/sst2",
    "stsb": "glue/stsb",
    "superglue/wscfixed": "superglue/wsc",
    "triviaqa/rc": "triviaqa",
    "triviaqa/rcnocontext": "triviaqa",
    "triviaqa/unfiltered": "triviaqa",
    "triviaqa/unfilterednocontext": "triviaqa",
    "wic": "superglue/wic",
    "wnli": "glue/wnli",
    "wsc": "superglue/wsc",
    "yelppolarity": "yelppolarityreviews",
    "yelpreviewfull": "yelppolarityreviews",
}

_TFDS, *_HUB = ("tfds:", "hf:", "huggingface:")

Path = tuple[str, ...]


class TaskIdentity(NamedTuple):
    """What a task is made of, where no more of it is known: of a model that was trained elsewhere."""

    name: str
    base: str
    dataset: str | None


Identified = PreparedTask | TaskIdentity


class Shared(NamedTuple):
    """One thing that two tasks have in common.

    Attributes:
        evaluated: the task that is evaluated.
        trained: the task that is trained on.
        what: what they share.
    """

    evaluated: str
    trained: str
    what: str

    def __str__(self) -> str:
        return f"{self.evaluated!r} and {self.trained!r}, which is trained on, {self.what}"


def shared_data(trained: Iterable[Identified], evaluated: Iterable[Identified]) -> list[Shared]:
    """Everything that evaluated tasks share with trained ones.

    Tasks share data if they are the same, show the rows of the same task, or have the same source data set. A data
    set without a configuration ('mmlu') is that of all its configurations ('mmlu/astronomy').

    Args:
        trained: tasks that are trained on.
        evaluated: tasks that are evaluated.
    """
    bases: dict[str, list[str]] = {}
    sure, likely = _Trained(), _Trained()
    for task in trained:
        bases.setdefault(task.base, []).append(task.name)
        names = data_sets(task.dataset)
        sure.add(names.sure, task)
        likely.add(names.likely, task)
    found: dict[tuple[str, str], Shared] = {}
    for task in evaluated:
        for other in bases.get(task.base, ()):
            what = "are the same task" if other == task.name else f"show the rows of the same task {task.base!r}"
            found[task.name, other] = Shared(task.name, other, what)
        names = data_sets(task.dataset)
        for one in (*sure.sharing(names.sure), *sure.sharing(names.likely), *likely.sharing(names.sure)):
            what = f"have the same source data {one.dataset!r}"
            found.setdefault((task.name, one.name), Shared(task.name, one.name, what))
    return list(found.values())


class DataSets(NamedTuple):
    """The data sets that a task is made of, each from the widest name to its own: ('superglue', 'rte').

    Attributes:
        sure: those that are named.
        likely: names of the hub without their first part, which may be who published it there ('openai/gsm8k') or
            the data set itself ('glue/rte'): the same as another data set of that name, but two such need not be.
    """

    sure: tuple[Path, ...]
    likely: tuple[Path, ...]


@functools.cache
def data_sets(dataset: str | None) -> DataSets:
    """Reads the identity of a task's source data (see `tasks.TaskInfo`).

    What a registry puts before a name ('tfds:') or after it (':1.0.3') does not change what the data are, nor do case
    and punctuation ('CosmosQA', 'cosmos_qa'), nor being published again under one of `SAME_DATA`.

    Args:
        dataset: one data set, or several parted by ';'.
    """
    sure, likely = [], []
    for name in (dataset or "").lower().split(";"):
        name = name.strip()
        scheme = next((scheme for scheme in (_TFDS, *_HUB) if name.startswith(scheme)), "")
        path = _path(name.removeprefix(scheme))
        if path:
            sure.append(_canonical(path))
        if scheme in _HUB and len(path) > 1:
            likely.append(_canonical(path[1:]))
    return DataSets(tuple(sure), tuple(likely))


def _path(name: str) -> Path:
    parts = ("".join(filter(str.isalnum, part)) for part in name.partition(":")[0].split("/"))
    return tuple(part for part in parts if part)


def _canonical(path: Path) -> Path:
    for end in range(len(path), 0, -1):
        same = SAME_DATA.get("/".join(path[:end]))
        if same is not None:
            return (*same.split("/"), *path[end:])
    return path


class _Trained:
    """Trained tasks by their data sets, to be found by the whole of which these are a part, or by a part of them."""

    def __init__(self) -> None:
        self._own: dict[Path, list[Identified]] = {}
        self._within: dict[Path, list[Identified]] = {}

    def add(self, paths: Iterable[Path], task: Identified) -> None:
        for path in paths:
            self._own.setdefault(path, []).append(task)
            for end in range(1, len(path)):
                self._within.setdefault(path[:end], []).append(task)

    def sharing(self, paths: Iterable[Path]) -> Iterator[Identified]:
        for path in paths:
            for end in range(1, len(path) + 1):
                yield from self._own.get(path[:end], ())
            yield from self._within.get(path, ())


def refuse_shared(trained: Iterable[Identified], evaluated: Iterable[Identified], allow_overlap: bool) -> list[Shared]:
    """Refuses to evaluate tasks that share data with what is trained on.

    Args:
        trained: tasks that are, or have been, trained on.
        evaluated: tasks that are to be evaluated.
        allow_overlap: do not refuse.

    Returns:
        What is shared all the same.

    Raises:
        ConfigError: every shared thing, unless it is allowed.
    """
    shared = shared_data(trained, evaluated)
    if shared and not allow_overlap:
        raise ConfigError([*(f"evaluated {one}" for one in shared), _how_to_part(shared)])
    return shared


def _how_to_part(shared: Sequence[Shared]) -> str:
    names = sorted({one.trained for one in shared})
    listed = ", ".join(map(repr, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return (
        f"hold {listed} out of training as well, or set ALLOW_OVERLAP=True and know that these figures are not of "
        "unseen tasks"
    )
