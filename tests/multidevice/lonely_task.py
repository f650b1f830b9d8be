"""A task with fewer validation examples than a run has hosts, and one to hold out beside it."""

import tests.small_tasks  # noqa: F401  registers the other
from t5x_instruct.data.tasks import add_mixture, add_task
from t5x_instruct.evaluation.metrics import exact_match

add_task(
    "lonely_one",
    cluster="lonely",
    source={
        "train": [{"word": word, "answer": word[-1]} for word in ("ant", "bee", "cat", "dog")],
        "validation": [{"word": "fox", "answer": "x", "options": ["f", "x"]}],
    },
    templates=["Last letter of {word}?"],
    metrics=[exact_match],
)
add_mixture("lonely", ["lonely_one", "small_last"], rate=1.0)
