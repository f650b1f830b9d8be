from typing import Any

import jax
import numpy as np
import pytest

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.data.vocabularies import ByteVocabulary
from t5x_instruct.decoding import LanguageModel, Sampling, generate
from t5x_instruct.models.t5 import T5Config, T5Model
from t5x_instruct.templates.chat import ChatFormat, ChatTemplate, PlainFormat
from tests.decoding.alphabet import alphabet_model
from tests.decoding.tiny_models import TinyAttention

VOCABULARY = ByteVocabulary()


class ChattyBytes(ByteVocabulary):
    """Bytes with a chat template."""

    chat_template = ChatTemplate(
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}.{% endfor %}"
        "{% if add_generation_prompt %}<assistant>a{% endif %}"
    )


@pytest.fixture(scope="module")
def attention_lm() -> LanguageModel:
    model = TinyAttention(VOCABULARY.vocab_size, VOCABULARY.vocab_size)
    return LanguageModel(model, model.init(jax.random.key(1)), VOCABULARY, PlainFormat())


@pytest.fixture(scope="module")
def encoder_lm() -> LanguageModel:
    model = T5Model(
        T5Config(
            vocab_size=VOCABULARY.vocab_size,
            emb_dim=8,
            num_encoder_layers=1,
            num_decoder_layers=1,
            num_heads=2,
            head_dim=4,
            mlp_dim=8,
            activation="relu",
            gated_mlp=False,
            relative_buckets=4,
            relative_max_distance=8,
            norm_epsilon=1e-6,
            tie_embeddings=False,
            scale_decoder_outputs=False,
        )
    )
    return LanguageModel(model, jax.jit(model.init)(jax.random.key(1)), VOCABULARY)


@pytest.fixture(scope="module")
def alphabet() -> tuple[Any, Any]:
    return alphabet_model()


def test_generate_in_order_without_the_end_token(alphabet: Any) -> None:
    lm = LanguageModel(*alphabet, VOCABULARY, PlainFormat())
    assert lm.generate(["w", "the letters after u", "ab"], max_new_tokens=4) == ["xyz", "vwxy", "cdef"]
    assert lm.generate([]) == []


def test_an_answer_has_a_line_of_its_own(alphabet: Any) -> None:
    lm = LanguageModel(*alphabet, VOCABULARY)
    assert lm.prompt_format.name == "line"
    asked = VOCABULARY.encode("Peru?\n")
    assert lm.prompt_ids("Peru?").tolist() == lm.prompt_ids("Peru?\n").tolist() == asked
    assert lm.conversation_ids([{"role": "user", "content": "Peru?"}]).tolist() == asked
    assert lm.prompt_ids("Peru?", raw=True).tolist() == VOCABULARY.encode("Peru?")
    assert lm.generate(["x", "x\n"], max_new_tokens=2) == ["", ""]  # after a line break the alphabet is at its end
    assert lm.generate(["x"], max_new_tokens=2, raw=True) == ["yz"]


def test_an_empty_prompt_starts_a_sequence(alphabet: Any) -> None:
    assert LanguageModel(*alphabet, VOCABULARY, PlainFormat()).generate([""], max_new_tokens=3) == [""]


def test_a_chat_model_is_asked_in_its_format_unless_raw(alphabet: Any) -> None:
    lm = LanguageModel(*alphabet, ChattyBytes())
    assert isinstance(lm.prompt_format, ChatFormat)
    assert lm.generate(["x"], max_new_tokens=2) == ["bc"]  # after "...<assistant>a"
    assert lm.generate(["x"], max_new_tokens=2, raw=True) == ["yz"]


def test_chat_renders_the_conversation(alphabet: Any) -> None:
    lm = LanguageModel(*alphabet, ChattyBytes())
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes"}]
    assert lm.chat([*turns, {"role": "user", "content": "go on"}], max_new_tokens=3) == "bcd"


def test_chat_without_a_template_goes_on_in_the_plain_frame(alphabet: Any) -> None:
    lm = LanguageModel(*alphabet, VOCABULARY, PlainFormat())
    turns = [{"role": role, "content": role[0]} for role in ("user", "assistant", "user")]
    assert lm.chat(turns[:1], max_new_tokens=3) == lm.generate(["u"], max_new_tokens=3)[0] == "vwx"
    asked = "User:\nu\n\nAssistant:\na\n\nUser:\nu\n\nAssistant:\n"
    assert lm.conversation_ids(turns).tolist() == VOCABULARY.encode(asked)
    with pytest.raises(DataError, match="cannot be shown tools"):
        lm.chat(turns, tools=[{"type": "function", "function": {"name": "look_up"}}])


def test_scores_prefer_what_the_model_would_say(alphabet: Any) -> None:
    lm = LanguageModel(*alphabet, VOCABULARY, PlainFormat())
    likely, unlikely = lm.score(["x", "x"], ["yz", "zz"])
    assert likely > -0.01 > -20 > unlikely
    unended, ended = lm.score(["a"], ["bc"], ends=False)[0], lm.score(["a"], ["bc"])[0]
    assert unended > -0.01 > -20 > ended
    assert lm.score(["a"], ["bc"], per_token=True)[0] == pytest.approx(ended / 3)


def test_scores_use_the_prompt_format(alphabet: Any) -> None:
    lm = LanguageModel(*alphabet, ChattyBytes())
    assert lm.score(["x"], ["b"], ends=False)[0] > -0.01
    assert lm.score(["x"], ["b"], ends=False, raw=True)[0] < -20


def test_logits_agree_with_scores(attention_lm: LanguageModel) -> None:
    tokens = np.asarray([VOCABULARY.encode("abcdef")], np.int32)
    logits = attention_lm.logits({"decoder_input_tokens": tokens})
    assert logits.shape == (1, 6, VOCABULARY.vocab_size)
    log_probs = jax.nn.log_softmax(logits)[0]
    expected = sum(log_probs[i - 1, tokens[0, i]] for i in range(2, 6))
    scored = attention_lm.score(["ab"], ["cdef"], ends=False)[0]
    assert scored == pytest.approx(float(expected), rel=1e-5)


def test_an_encoder_reads_the_end_token_behind_a_prompt(encoder_lm: LanguageModel) -> None:
    text = VOCABULARY.encode("ab")
    assert encoder_lm.prompt_ids("ab").tolist() == [*text, VOCABULARY.eos_id]
    assert encoder_lm.prompt_ids("").tolist() == [VOCABULARY.eos_id]
    assert encoder_lm.prompt_ids("ab", raw=True).tolist() == encoder_lm.prompt_ids(np.asarray(text)).tolist() == text
    assert encoder_lm.prompt_ids("", raw=True).tolist() == []
    prompts = ["ab", "the second, which is longer", ""]
    answers = encoder_lm.generate(prompts, max_new_tokens=6)
    assert encoder_lm.generate([encoder_lm.prompt_ids(prompt) for prompt in prompts], max_new_tokens=6) == answers
    assert encoder_lm.generate(prompts, max_new_tokens=6, raw=True) != answers


def test_logits_of_an_encoder_decoder_agree_with_scores(encoder_lm: LanguageModel) -> None:
    answer = encoder_lm.response_ids("yes")
    batch = {
        "encoder_input_tokens": encoder_lm.prompt_ids("Well?")[None],
        "decoder_input_tokens": np.asarray([[encoder_lm.model.config.decoder_start_id, *answer[:-1]]]),
    }
    log_probs = jax.nn.log_softmax(encoder_lm.logits(batch))[0]
    expected = float(log_probs[np.arange(len(answer)), answer].sum())
    assert encoder_lm.score(["Well?"], ["yes"])[0] == pytest.approx(expected, rel=1e-5)


def test_beams_are_those_of_generate(attention_lm: LanguageModel) -> None:
    prompts = ["one", "two", "three", "four"]
    ids = [attention_lm.prompt_ids(prompt) for prompt in prompts]
    model, params = attention_lm.model, attention_lm.params
    # Less sure than the random model, and with an end token that now and then is likely: there is more to find.
    params = {**params, "head": (params["head"] / 6).at[:, VOCABULARY.eos_id].multiply(8.0)}
    lm = LanguageModel(model, params, VOCABULARY, PlainFormat())
    answers = []
    for penalty in (0.0, 5.0):
        way = Sampling(num_beams=6, length_penalty=penalty)
        found = generate(model, params, ids, max_new_tokens=8, eos_id=1, pad_id=0, sampling=way)
        answers.append([VOCABULARY.decode(answer.tolist()) for answer in found])
        assert lm.generate(prompts, 8, num_beams=6, length_penalty=penalty) == answers[-1]
    assert answers[0] != answers[1] != lm.generate(prompts, 8)
    with pytest.raises(ConfigError, match="num_beams 2 with temperature 0.7"):
        lm.generate(prompts, 8, 0.7, num_beams=2)


def test_drawn_answers_repeat_with_the_seed(attention_lm: LanguageModel) -> None:
    def draw(seed: int) -> list[str]:
        return attention_lm.generate(["one", "two"], 12, 20.0, top_k=50, top_p=0.95, seed=seed)

    assert draw(1) == draw(1) != draw(2)


def test_misuse_is_explained(attention_lm: LanguageModel) -> None:
    with pytest.raises(ConfigError, match="prompts is one string"):
        attention_lm.generate("hello")
    with pytest.raises(ConfigError, match="2 prompts but 1 responses"):
        attention_lm.score(["a", "b"], ["c"])
    small = TinyAttention(100, 100)
    with pytest.raises(ConfigError, match="has 259 ids, the model knows 100"):
        LanguageModel(small, {}, VOCABULARY)
