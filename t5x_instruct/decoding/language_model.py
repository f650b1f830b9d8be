"""A model with its vocabulary: text in, text out."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.sharding import Mesh

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.common.types import Batch, Params
from t5x_instruct.data.prompt_formats import (
    default_prompt_format,
    encode_conversation,
    encode_prompt,
    make_prompt_format,
)
from t5x_instruct.decoding.batches import mesh_of, on_mesh
from t5x_instruct.decoding.generate import generate
from t5x_instruct.decoding.prompts import reader_of
from t5x_instruct.decoding.sampling import Sampling
from t5x_instruct.decoding.scoring import score
from t5x_instruct.templates.chat import Message, PromptFormat, Tools

if TYPE_CHECKING:
    from t5x_instruct.data.vocabularies import Vocabulary
    from t5x_instruct.models.api import Model


class LanguageModel:
    """Generate, score and chat with a model in plain strings.

    ```
    lm = t5x_instruct.load("out/my_run")
    lm.generate(["Name three rivers of Portugal."], max_new_tokens=40)
    lm.score(["2 + 2 ="] * 2, [" 4", " 5"])           # log-likelihoods; the larger is the likelier
    lm.chat([{"role": "user", "content": "Hello! Who are you?"}])
    ```

    A prompt is first put into the form the model was trained on, its prompt format: for a chat model one user turn
    of its chat template, for an encoder-decoder the text and the end token, for others the text and a line break; a
    run's folder tells which one that was. `raw=True` passes text to the model as it is, which has a pretrained model go
    on with it; prompts that are token ids already (see `prompt_ids`) always are passed so.

    Attributes:
        model: the model (see `models/api.py`).
        params: its parameters.
        vocabulary: text to token ids and back.
        prompt_format: how an instruction becomes the string the model is given.
    """

    def __init__(
        self,
        model: "Model",
        params: Params,
        vocabulary: "Vocabulary",
        prompt_format: PromptFormat | None = None,
    ):
        """Brings the parts together.

        Args:
            model: the model.
            params: its parameters, on any devices.
            vocabulary: must fit the model: no id may be beyond the model's vocabulary.
            prompt_format: by default the vocabulary's chat template if it has one, else the text with the end
                token if an encoder reads it, with a line break if not.

        Raises:
            ConfigError: the vocabulary has more ids than the model.
        """
        if vocabulary.vocab_size > model.config.vocab_size:
            raise ConfigError(
                f"the vocabulary has {vocabulary.vocab_size} ids, the model knows {model.config.vocab_size}; "
                "load the vocabulary that belongs to the model"
            )
        if prompt_format is None:
            prompt_format = make_prompt_format(default_prompt_format(vocabulary, model.reads_inputs), vocabulary)
        self.model = model
        self.params = params
        self.vocabulary = vocabulary
        self.prompt_format = prompt_format

    def generate(
        self,
        prompts: Sequence[str | np.ndarray],
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        *,
        top_k: int = 0,
        top_p: float = 1.0,
        num_beams: int = 1,
        length_penalty: float = 0.6,
        seed: int = 0,
        batch_size: int = 32,
        raw: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[str]:
        """Answers each prompt.

        Args:
            prompts: instructions, any number of any length; they are batched by length. Token ids are int arrays.
            max_new_tokens: answers end here if the model has not ended them before.
            temperature: 0 for the most likely token each time (the same answer every time); around 0.7 for variety.
            top_k: with a temperature: draw from this many most likely tokens only; 0 means all.
            top_p: with a temperature: draw from the most likely tokens that together reach this probability.
            num_beams: above 1, beam search: slower, and often better for long answers that have one right content,
                such as translations and summaries (T5: 4). It draws nothing, so it takes no temperature.
            length_penalty: with beams: more favours longer answers, 0 favours none (see `Sampling`).
            seed: another seed draws other answers; the same seed the same ones.
            batch_size: rows that are decoded at once, a row for each prompt or each of its beams: more is faster
                until memory ends.
            raw: pass the prompts to the model as they are, without the prompt format.
            progress: called with (answers done, all) from time to time.

        Returns:
            The answers, without the end token, in the order of `prompts`.

        Raises:
            ConfigError: `prompts` is a single string, or a number is out of its range or does not go with another.
        """
        _refuse_string("prompts", prompts)
        answers = generate(
            self.model,
            self.params,
            [self.prompt_ids(prompt, raw=raw) for prompt in prompts],
            max_new_tokens=max_new_tokens,
            eos_id=self.vocabulary.eos_id,
            pad_id=self.vocabulary.pad_id,
            sampling=Sampling(temperature, top_k, top_p, num_beams, length_penalty),
            seed=seed,
            batch_size=batch_size,
            progress=progress,
        )
        return [self.vocabulary.decode(answer.tolist()) for answer in answers]

    def score(
        self,
        prompts: Sequence[str | np.ndarray],
        responses: Sequence[str],
        *,
        batch_size: int = 32,
        raw: bool = False,
        ends: bool = True,
        per_token: bool = False,
    ) -> np.ndarray:
        """Log-likelihood of each response given its prompt.

        Args:
            prompts: instructions, or their token ids.
            responses: one response for each prompt.
            batch_size: pairs scored at once.
            raw: take the prompts as they are, without the prompt format.
            ends: whether the response's end counts: the end token is scored as its last token.
            per_token: divide by the number of tokens, which compares responses of unlike length more fairly.

        Returns:
            float32 [len(prompts)]: natural logarithms, 0 or below.

        Raises:
            ConfigError: a single string was given, or unlike numbers of prompts and responses.
        """
        _refuse_string("prompts", prompts)
        _refuse_string("responses", responses)
        if len(prompts) != len(responses):
            raise ConfigError(f"{len(prompts)} prompts but {len(responses)} responses")
        pairs = [
            (self.prompt_ids(prompt, raw=raw), self.response_ids(response, ends=ends))
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        scores = score(
            self.model,
            self.params,
            pairs,
            start_id=self.vocabulary.start_id,
            pad_id=self.vocabulary.pad_id,
            batch_size=batch_size,
        )
        return scores.per_token if per_token else scores.log_likelihoods

    def logits(self, batch: Batch) -> jax.Array:
        """Logits of a batch as it is trained on.

        For example, what an encoder-decoder predicts for the first token of an answer:

        ```
        lm.logits({
            "encoder_input_tokens": lm.prompt_ids("What is the capital of Peru?")[None],
            "decoder_input_tokens": np.asarray([[lm.model.config.decoder_start_id]]),
        })
        ```

        Args:
            batch: int32 arrays under their training keys (see `common/types.py`): `decoder_input_tokens` [B, T] and,
                for an encoder-decoder, `encoder_input_tokens` [B, S], where the decoder's begin with the model's
                `decoder_start_id`. If rows are padded or packed, also `*_segment_ids` and `*_positions` of each side.
                For a prefix-LM `decoder_causal_attention` [B, T], 1 where a slot holds inputs; without it, every
                token sees only those before it.

        Returns:
            float32 [B, T, rows of the head]: of each token that may follow a slot's; -1e30 for ids beyond the
            vocabulary. For large T x V prefer `score`, which never holds all of them.
        """
        return _logits(self.model, mesh_of(self.params), self.params, dict(batch))

    def chat(
        self,
        messages: Sequence[Message],
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        *,
        tools: Tools | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> str:
        """The model's next turn in a conversation.

        Args:
            messages: turns so far, e.g. ``[{"role": "user", "content": "Hello!"}]``; roles are those that the
                model's chat template knows, commonly system, user, assistant and tool. A model without a chat
                template reads the dialogue in the plain frame that it is trained on (`templates.dialogue`).
            max_new_tokens: see `generate`, as for `temperature` and what follows `tools`.
            temperature: see `generate`.
            tools: what the model may call, as JSON schemas of functions, for templates that show them.
            top_k: see `generate`.
            top_p: see `generate`.
            seed: see `generate`.

        Returns:
            The answer's text; append it as an ``assistant`` message to go on.

        Raises:
            DataError: the prompt format has no text for the conversation, or does not show the tools.
        """
        prompt = self.conversation_ids(messages, tools)
        return self.generate([prompt], max_new_tokens, temperature, top_k=top_k, top_p=top_p, seed=seed)[0]

    def conversation_ids(self, messages: Sequence[Message], tools: Tools | None = None) -> np.ndarray:
        """Token ids that the model is given for its next turn, int32 [length]; arguments and errors as of `chat`."""
        ids = encode_conversation(self.vocabulary, self.prompt_format, messages, tools)
        return reader_of(self.model).prompt(ids, self.vocabulary.start_id)

    def prompt_ids(self, prompt: str | np.ndarray, *, raw: bool = False) -> np.ndarray:
        """Token ids that the model is given for a prompt, int32 [length].

        Args:
            prompt: an instruction; token ids are taken as they are.
            raw: take the text as it is, without the prompt format.
        """
        ids: np.ndarray | Sequence[int]
        if not isinstance(prompt, str):
            ids = prompt
        elif raw:
            ids = self.vocabulary.encode(prompt)
        else:
            ids = encode_prompt(self.vocabulary, self.prompt_format, prompt)
        return reader_of(self.model).prompt(ids, self.vocabulary.start_id)

    def response_ids(self, response: str, *, ends: bool = True) -> np.ndarray:
        """Token ids of a response, int32 [length], with the end token if it `ends`."""
        ids = self.vocabulary.encode(response) + ([self.vocabulary.eos_id] if ends else [])
        return np.asarray(ids, np.int32)


@partial(jax.jit, static_argnames=("model", "mesh"))
def _logits(model: "Model", mesh: Mesh | None, params: Params, batch: dict[str, jax.Array]) -> jax.Array:
    with on_mesh(mesh):
        return model.logits(params, model.hidden(params, batch))


def _refuse_string(name: str, value: Sequence[str | np.ndarray]) -> None:
    if isinstance(value, str):
        raise ConfigError(f"{name} is one string; give a list, e.g. [{value[:40]!r}]")
