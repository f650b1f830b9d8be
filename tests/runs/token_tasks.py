"""A tiny task of the words of `tests.checkpoints.tiny_hf`, with tokens in them that its tokenizer does not have."""

from t5x_instruct.data.tasks import add_mixture, add_task
from t5x_instruct.evaluation.metrics import exact_match


def rows(first: int, last: int) -> list[dict[str, str]]:
    return [{"word": f"w{i}", "answer": f"<tool> w{i + 1}"} for i in range(first, last)]


add_task(
    "token_next",
    cluster="token_words",
    source={"train": rows(1, 30), "validation": rows(30, 40)},
    templates=["w40 {word} w41", "<tool> {word}"],
    metrics=[exact_match],
)
add_mixture("token_mixture", ["token_next"], rate=1.0)
