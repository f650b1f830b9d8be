"""Which tasks show the same data: what is evaluated must not have been trained on in another guise."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.data.prepared import PreparedTask

#: Names of data sets that other collections publish again under their own.
SAME_DATA = {
    "bool_q": "super_glue/boolq",
    "cais/mmlu": "mmlu",
    "glue/mnli_matched": "glue/mnli",
    "glue/mnli_mismatched": "glue/mnli",
    "glue/rte": "super_glue/rte",
    "hendrycks_test": "mmlu",
    "multi_nli": "glue/mnli",
    "super_glue/wsc.fixed": "super_glue/wsc",
}


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
    datasets: dict[str, list[tuple[str, str]]] = {}
    for task in trained:
        bases.setdefault(task.base, []).append(task.name)
        for name in dataset_names(task.dataset):
            datasets.setdefault(name, []).append((task.name, dataset_names(task.dataset)[-1]))
    found: dict[tuple[str, str], Shared] = {}
    for task in evaluated:
        for other in bases.get(task.base, ()):
            what = "are the same task" if other == task.name else f"show the rows of the same task {task.base!r}"
            found[task.name, other] = Shared(task.name, other, what)
        for other, dataset in _same_dataset(task.dataset, datasets):
            found.setdefault((task.name, other), Shared(task.name, other, f"have the same source data {dataset!r}"))
    return list(found.values())


def _same_dataset(dataset: str | None, datasets: dict[str, list[tuple[str, str]]]) -> list[tuple[str, str]]:
    names = dataset_names(dataset)
    if not names:
        return []
    # What is trained on may be the whole of which this is a part, or a part of it.
    wider = [(task, full) for name in names[:-1] for task, full in datasets.get(name, ()) if full == name]
    return wider + datasets.get(names[-1], [])


def dataset_names(dataset: str | None) -> list[str]:
    """The names of a data set from the widest to its own: ['super_glue', 'super_glue/rte'].

    What a registry puts before a name ('tfds:') or after it (':1.0.3') does not change what the data are.
    """
    if dataset is None:
        return []
    name = dataset.lower()
    for scheme in ("tfds:", "hf:", "huggingface:"):
        name = name.removeprefix(scheme)
    name = name.partition(":")[0]
    parts = SAME_DATA.get(name, name).split("/")
    widest = SAME_DATA.get(parts[0], parts[0])
    return [widest, *("/".join([widest, *parts[1 : i + 1]]) for i in range(1, len(parts)))]


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
