import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_instruct.common.errors import DataError
from t5x_instruct.templates.chat import ChatFormat, ChatTemplate, EosFormat, LineFormat, PlainFormat
from t5x_instruct.templates.few_shot import Exemplar, Frame, drawn_order, few_shot_prompt, with_exemplars

EXEMPLARS = [Exemplar("1 + 1 =", "2"), Exemplar("2 + 3 =", "5")]
TURNS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
ONE_TURN = "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}{{ messages[0].content }}"


def test_a_frame_states_its_separators() -> None:
    assert Frame().text(EXEMPLARS, "4 + 4 =") == "1 + 1 =\n2\n\n2 + 3 =\n5\n\n4 + 4 =\n"
    assert Frame(" -> ", " | ").text(EXEMPLARS[:1], "a") == "1 + 1 = -> 2 | a -> "
    assert Frame().text([], "4 + 4 =") == "4 + 4 ="


@pytest.mark.parametrize(
    "form", [PlainFormat(), LineFormat(), EosFormat(), ChatFormat(ChatTemplate(TURNS), "Be brief.")]
)
def test_without_exemplars_it_is_the_prompt_of_the_format(form) -> None:
    assert few_shot_prompt(form, [], "4 + 4 =") == form.prompt("4 + 4 =")


def test_models_without_turns_get_one_text() -> None:
    for form in (PlainFormat(), LineFormat(), EosFormat()):
        assert few_shot_prompt(form, EXEMPLARS, "a") == Frame().text(EXEMPLARS, "a")
    assert few_shot_prompt(PlainFormat(), EXEMPLARS[:1], "a", Frame("=", ";")) == "1 + 1 ==2;a="


def test_chat_models_get_turns_after_the_system_message() -> None:
    with_system = few_shot_prompt(ChatFormat(ChatTemplate(TURNS), "Be brief."), EXEMPLARS, "a")
    turns = "<user>1 + 1 =</><assistant>2</><user>2 + 3 =</><assistant>5</>"
    assert with_system == f"<system>Be brief.</>{turns}<user>a</><assistant>"
    assert few_shot_prompt(ChatFormat(ChatTemplate(TURNS)), EXEMPLARS, "a") == f"{turns}<user>a</><assistant>"


def test_a_conversation_keeps_its_own_turns() -> None:
    messages = [{"role": role, "content": role[0]} for role in ("system", "user", "assistant", "user")]
    made = with_exemplars(messages, EXEMPLARS[:1])
    assert [message["content"] for message in made] == ["s", "1 + 1 =", "2", "u", "a", "u"]
    assert [message["role"] for message in made[1:3]] == ["user", "assistant"]


def test_a_template_of_a_single_turn_says_so() -> None:
    with pytest.raises(DataError, match="one turn only"):
        few_shot_prompt(ChatFormat(ChatTemplate(ONE_TURN)), EXEMPLARS, "a")


@settings(max_examples=40)
@given(st.integers(0, 60), st.integers(0, 5), st.text(max_size=3))
def test_drawn_order_is_a_permutation_of_its_key(n: int, seed: int, name: str) -> None:
    order = list(drawn_order(n, seed, name))
    assert sorted(order) == list(range(n))
    assert order == list(drawn_order(n, seed, name))


def test_drawn_orders_are_the_same_everywhere_and_differ_by_key() -> None:
    assert list(drawn_order(6, 0, "task", 3)) == [3, 5, 0, 1, 4, 2]
    orders = {tuple(drawn_order(6, 0, "task", index)) for index in range(50)}
    assert len(orders) > 40
    # Millions of examples cost no more than those that are taken.
    assert len(set(itertools.islice(drawn_order(10**12, 0), 5))) == 5


def test_every_number_comes_first_equally_often() -> None:
    counts = [0] * 5
    for index in range(2000):
        counts[next(drawn_order(5, "first", index))] += 1
    assert all(330 < count < 470 for count in counts)
