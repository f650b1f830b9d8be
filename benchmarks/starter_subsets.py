"""Mixtures of a few of the starter's clusters: `starter_1_clusters` ... `starter_9_clusters`.

Each has the first so many of nine clusters, in alphabetical order, and the two that `recipes/quickstart.gin` holds out.
"""

from t5x_instruct.data.tasks import add_mixture, clusters_of, proportional
from tasks.starter import CAP

HELD_OUT = ("geography", "word_relations")

_CLUSTERS = clusters_of("starter")
TRAINED = [cluster for cluster in _CLUSTERS if cluster not in HELD_OUT]

for _count in range(1, len(TRAINED) + 1):
    add_mixture(
        f"starter_{_count}_clusters",
        [task for cluster in (*TRAINED[:_count], *HELD_OUT) for task in _CLUSTERS[cluster]],
        rate=proportional(cap=CAP),
    )
