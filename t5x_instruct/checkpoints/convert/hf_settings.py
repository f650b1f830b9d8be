"""The settings of a `config.json` as they are asked for, with all that is wrong with them."""

from collections.abc import Iterable, Mapping
from typing import Any

from t5x_instruct.common.errors import unknown

#: Their activations by name. "gelu_python" is the exact one, which T5's "gated-gelu" is not.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
#: The inverse, for the families that have no other names.
THEIR_ACTIVATIONS = {"silu": "silu", "relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}
# Settings of any model that change nothing about what it computes.
BOOKKEEPING = (
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "architectures",
    "attention_dropout", "auto_map", "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "cache_implementation",
    "chunk_size_feed_forward", "classifier_dropout", "classifier_dropout_rate", "decoder_start_token_id",
    "diversity_penalty", "do_sample",
    "dtype", "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty",
    "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing", "id2label",
    "initializer_factor", "initializer_range", "is_decoder", "is_encoder_decoder", "is_llama_config", "label2id",
    "length_penalty", "max_length", "max_position_embeddings", "min_length", "model_max_length", "model_type",
    "n_positions", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "output_attentions",
    "output_hidden_states", "output_past", "output_scores", "pad_token_id", "prefix", "pretraining_tp",
    "problem_type", "remove_invalid_values", "repetition_penalty", "return_dict", "return_dict_in_generate",
    "sep_token_id", "suppress_tokens", "task_specific_params", "temperature", "tf_legacy_loss", "tokenizer_class",
    "top_k", "top_p", "torch_dtype", "torchscript", "transformers.js_config", "transformers_version", "typical_p",
    "unsloth_fixed", "unsloth_version", "use_bfloat16", "use_cache",
)  # fmt: skip
_LARGEST = 10**308


class Settings:
    """The settings of a file, or of a dictionary in it, as they are asked for.

    Args:
        values: the content.
        inside: the name of the setting that it is the value of, for messages.
    """

    def __init__(self, values: Mapping[str, Any], inside: str = ""):
        self._values = values
        self._inside = f"{inside}: " if inside else ""
        self._asked: set[str] = set()
        self.problems: list[str] = []

    def has(self, name: str) -> bool:
        """Whether a setting is there and not null."""
        self._asked.add(name)
        return self._values.get(name) is not None

    def take(self, name: str, kind: type, default: Any = None) -> Any:
        """A setting; a stand-in of its type if it is missing or of another type, which is noted."""
        self._asked.add(name)
        value = self._values.get(name)
        if value is None:
            value = default
        if value is None:
            self.problem(f"{name} is missing")
        elif isinstance(value, bool) is not (kind is bool) or not isinstance(
            value, (int, float) if kind is float else kind
        ):
            self.problem(f"{name} is {short(value)}, must be of the type {kind.__name__}")
        elif isinstance(value, int) and kind is float and abs(value) > _LARGEST:
            self.problem(f"{name} is {short(value)}, larger than any float")
        else:
            return kind(value)
        return kind() if kind in (dict, list) else kind(1)

    def optional(self, name: str, kind: type, default: Any = None) -> Any:
        """A setting; None if it is null, which is not the same as leaving it out where there is a default."""
        self._asked.add(name)
        return None if self._values.get(name, default) is None else self.take(name, kind, default)

    def inside(self, name: str) -> "Settings":
        """The settings within a setting; what is wrong with them is the caller's to add to this one's problems."""
        return Settings(self.take(name, dict), name)

    def only(self, name: str, *neutral: Any) -> None:
        """Notes a setting whose value is not one of those that change nothing."""
        self._asked.add(name)
        value = self._values.get(name)
        if value is not None and value not in neutral:
            listed = " or ".join(map(repr, neutral)) or "leaving it out"
            self.problem(f"{name} is {short(value)}; only {listed} is supported")

    def ignore(self, *names: str) -> None:
        """Settings that change nothing about this family, whatever they are."""
        self._asked.update(names)

    def chosen(self, name: str, value: str, valid: Mapping[str, str]) -> str:
        """What a value of a setting means."""
        if value not in valid:
            self.problem(f"{name}: {unknown('value', value, valid)}")
        return valid.get(value, next(iter(valid.values())))

    def problem(self, text: str) -> None:
        """Notes something that is wrong."""
        self.problems.append(f"{self._inside}{text}")

    def check_rest(self, known: Iterable[str] = BOOKKEEPING) -> None:
        """Notes all settings that nobody has asked for, that are switched on, and that are not `known`."""
        known = self._asked.union(known)
        for name, value in self._values.items():
            if name not in known and value not in (None, False, 0, "", [], {}):
                self.problem(f"{unknown('setting', name, known)}; it is {short(value)}")


def short(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
