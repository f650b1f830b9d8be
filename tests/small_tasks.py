"""Three tiny tasks in two clusters, registered as a user would, for tests that train through the command line."""

from t5x_instruct.data.tasks import add_mixture, add_task, proportional
from t5x_instruct.evaluation.metrics import exact_match

WORDS = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "kite", "lion"]


def rows(make):
    """The last third of the words validates."""
    made = [make(word) for word in WORDS for _ in range(3)]
    return {"train": made[:24], "validation": made[24:]}


add_task(
    "small_copy",
    cluster="small_echo",
    source=rows(lambda word: {"word": word, "answer": word}),
    templates=["Say {word}.", "Repeat: {word}"],
    metrics=[exact_match],
)
add_task(
    "small_first",
    cluster="small_echo",
    source=rows(lambda word: {"word": word, "answer": word[0]}),
    templates=["First letter of {word}?", "{word} starts with"],
    metrics=[exact_match],
)
add_task(
    "small_last",
    cluster="small_ends",
    source=rows(lambda word: {"word": word, "answer": word[-1], "options": sorted({word[0], word[-1], "z"})}),
    templates=["Last letter of {word}?", "{word} ends with"],
    metrics=[exact_match],
)
add_mixture("small", ["small_copy", "small_first", "small_last"], rate=proportional(cap=100))
