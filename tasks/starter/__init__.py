"""The starter collection: small tasks in many clusters, written for this project, no download.

Their facts are public and their examples in the source or made from a seed. Mixtures: `starter` has
all tasks, `starter_without_CLUSTER` all but those of a cluster.
"""

from t5x_instruct.data.tasks import add_mixture, proportional, tasks_registered_in
from tasks.starter import (
    arithmetic,
    chemistry,
    classification,
    culture,
    dates_and_units,
    geography,
    grammar,
    science,
    sorting_and_counting,
    string_editing,
    word_relations,
)

CAP = 300
"""Examples beyond this number do not give a task more weight."""

_MODULES = (
    arithmetic,
    chemistry,
    classification,
    culture,
    dates_and_units,
    geography,
    grammar,
    science,
    sorting_and_counting,
    string_editing,
    word_relations,
)

_BY_CLUSTER = {module.CLUSTER: tasks_registered_in(module) for module in _MODULES}

add_mixture("starter", [task for tasks in _BY_CLUSTER.values() for task in tasks], rate=proportional(cap=CAP))

for _cluster in _BY_CLUSTER:
    add_mixture(
        f"starter_without_{_cluster}",
        [task for cluster, tasks in _BY_CLUSTER.items() if cluster != _cluster for task in tasks],
        rate=proportional(cap=CAP),
    )
