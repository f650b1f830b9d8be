"""FLAN 2021: its tasks from TensorFlow Datasets, one module a cluster, and the mixture `flan2021`.

A task's training share is in proportion to its examples, counted up to 3,000. `HOLD_OUT = ('entailment',)` also leaves
out what FLAN leaves out with it (`holdout`). What each task's data needs: `t5x-instruct tasks doctor flan2021 --module
tasks.flan2021`.

Source: Wei et al. 2021, Finetuned Language Models Are Zero-Shot Learners. Tasks, splits, caps and metrics are FLAN's;
the templates are this project's own.
"""

import importlib
import pkgutil

from t5x_instruct.data.tasks import add_mixture, proportional, relate_clusters
from tasks.flan2021.holdout import RELATED_CLUSTERS
from tasks.flan2021.registry import registered_tasks

RATE_CAP = 3000
"""Examples beyond this number do not give a task more weight."""

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

relate_clusters(RELATED_CLUSTERS)
add_mixture("flan2021", registered_tasks(), rate=proportional(cap=RATE_CAP))
