"""Mixing rates, as seqio's mixtures give them for what was really rendered."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence

import seqio

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.data.binding import BoundTask
from t5x_instruct.data.prepare_spec import PrepareSpec
from t5x_instruct.data.prepared import PreparedSplit
from t5x_instruct.data.tasks import rates_of


def mixture_rates(
    spec: PrepareSpec, bound: Sequence[BoundTask], splits: Mapping[str, Mapping[str, PreparedSplit]]
) -> dict[str, float]:
    """The rate of each training task; functions are called with the rendered number of examples.

    What is held out or skipped takes nothing from the share of a mixture inside the mixture (`tasks.rates_of`).

    Args:
        spec: what was asked for.
        bound: the tasks that were prepared.
        splits: their splits by task and name.

    Raises:
        ConfigError: a rate is not a number from 0.
    """
    if "train" not in spec.splits:
        return {}
    counts = {b.task.name: splits[b.task.name]["train"].num_examples for b in bound if b.role == "train"}
    with _counted(counts):
        rates = rates_of(spec.mixture, counts)
    for name, rate in rates.items():
        if not math.isfinite(rate) or rate < 0:
            raise ConfigError(f"mixture {spec.mixture!r}: the rate of {name!r} is {rate}; it must be 0 or more")
    return rates


@contextlib.contextmanager
def _counted(counts: Mapping[str, int]) -> Iterator[None]:
    """Lets seqio's rate functions see rendered counts, whether they ask for input or cached ones."""
    tasks = [seqio.TaskRegistry.get(name) for name in counts]
    for task in tasks:
        count = counts[task.name]
        task.num_input_examples = lambda split, n=count: n
        task.get_cached_stats = lambda split="train", n=count: {"examples": n}
    try:
        yield
    finally:
        for task in tasks:
            del task.num_input_examples, task.get_cached_stats
