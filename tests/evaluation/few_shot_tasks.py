"""Tasks with training examples to take exemplars from, for a model that goes on with the alphabet."""

import string
from typing import Any

import seqio

from t5x_instruct.data.tasks import add_task
from t5x_instruct.evaluation.metrics import exact_match

LETTERS = string.ascii_lowercase[:12]


def _rows(starts: str) -> list[dict[str, Any]]:
    return [{"start": start, "answer": start.upper()} for start in starts]


QUESTIONS = [
    {"start": start, "answer": answer} for start, answer in (("w", "xyz"), ("x", "yz"), ("y", "z"), ("v", "wxyz"))
]

add_task(
    "few_templates",
    cluster="held",
    # One of the questions is a training example too.
    source={"train": [*_rows(LETTERS), QUESTIONS[0]], "validation": QUESTIONS},
    templates=["{start}", "{start}?", "Say {start}"],
    metrics=[exact_match],
)
add_task(
    "few_options",
    cluster="held",
    source={
        "train": _rows(LETTERS),
        "validation": [row | {"options": [row["answer"], "qrstuvwxyz"]} for row in QUESTIONS],
    },
    templates=["Go on: {start}", "{start}!"],
    metrics=[exact_match],
)
add_task(
    "few_scarce",
    cluster="scarce",
    source={"train": [QUESTIONS[0], *_rows("a")], "validation": QUESTIONS[:2]},
    templates=["{start}"],
    metrics=[exact_match],
)
add_task(
    "few_none",
    cluster="scarce",
    source={"validation": QUESTIONS},
    templates=["{start}"],
    metrics=[exact_match],
)
add_task(
    "few_trained",
    cluster="trained",
    source={"train": _rows(LETTERS), "validation": QUESTIONS},
    templates=["{start}", "{start}?"],
    metrics=[exact_match],
)
OWN = seqio.Feature(seqio.ByteVocabulary(), add_eos=True)
add_task(
    "few_own_vocabulary",
    cluster="own",
    source={"train": _rows(LETTERS), "validation": QUESTIONS[:1]},
    templates=["{start}"],
    metrics=[exact_match],
    output_features={"inputs": OWN, "targets": OWN},
)
TASKS = ["few_templates", "few_options", "few_scarce", "few_none", "few_trained", "few_own_vocabulary"]
seqio.MixtureRegistry.add("few_mixture", TASKS, default_rate=1.0)
