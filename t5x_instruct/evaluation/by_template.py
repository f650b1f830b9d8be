"""Mean and best over templates, for tasks whose questions are asked with every template.

A task's figure is the mean over its templates. The best template is chosen on one half of the examples and its figure
is taken on the other half: the highest of several noisy figures, on the very examples it was chosen on, would flatter
the model. The halves are drawn by hash, the same for every model.

Source: mean and best (development set) template as in Wei et al. 2022, arXiv:2109.01652, section 3; a task has no
development set besides its validation split here, hence the halves.
"""

from collections.abc import Collection, Mapping, Sequence

from t5x_instruct.evaluation.results import Best
from t5x_instruct.templates.prompts import draw


def choosing_half(task: str, indices: Collection[int], seed: int) -> frozenset[int]:
    """The half of the examples that the best template is chosen on; of an odd number the smaller half.

    Args:
        task: the task's name.
        indices: the examples that are asked.
        seed: of the draw.
    """
    ordered = sorted(indices, key=lambda index: draw(1 << 62, seed, task, index, "choosing"))
    return frozenset(ordered[: len(ordered) // 2])


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are there."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def mean_metrics(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over templates of each metric, in the order of first appearance."""
    values: dict[str, list[float]] = {}
    for one in metrics:
        for name, value in one.items():
            values.setdefault(name, []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}


def best_of(choosing: Sequence[float | None], reporting: Sequence[float | None]) -> Best | None:
    """The best template, chosen by one figure and reported with the other.

    Args:
        choosing: each template's figure on the examples to choose on.
        reporting: each template's figure on the other examples.

    Returns:
        The first of equals; None if no template has both figures.
    """
    known = [
        template
        for template, both in enumerate(zip(choosing, reporting, strict=True))
        if both[0] is not None and both[1] is not None
    ]
    if not known:
        return None
    template = max(known, key=lambda t: (choosing[t], -t))
    score, mean = reporting[template], mean_of([reporting[t] for t in known])
    assert score is not None
    assert mean is not None
    return Best(template, score, mean)
