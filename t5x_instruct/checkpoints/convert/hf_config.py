"""Hugging Face's `config.json` to a configuration of ours, and back."""

from collections.abc import Callable, Mapping
from typing import Any

from t5x_instruct.common.errors import CheckpointError, ConfigError, unknown
from t5x_instruct.models.decoder import DecoderConfig
from t5x_instruct.models.t5 import T5Config

CONFIG_FILE = "config.json"
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
# Settings of any model that change nothing about what it computes.
_BOOKKEEPING = (
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "architectures",
    "attention_dropout", "auto_map", "bad_words_ids", "begin_suppress_tokens", "bos_token_id",
    "chunk_size_feed_forward", "classifier_dropout", "decoder_start_token_id", "diversity_penalty", "do_sample",
    "dtype", "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty",
    "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing", "id2label",
    "initializer_factor", "initializer_range", "is_decoder", "is_encoder_decoder", "is_llama_config", "label2id",
    "length_penalty", "max_length", "max_position_embeddings", "min_length", "model_type", "n_positions",
    "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "output_attentions",
    "output_hidden_states", "output_past", "output_scores", "pad_token_id", "prefix", "pretraining_tp",
    "problem_type", "remove_invalid_values", "repetition_penalty", "return_dict", "return_dict_in_generate",
    "sep_token_id", "suppress_tokens", "task_specific_params", "temperature", "tf_legacy_loss", "tokenizer_class",
    "top_k", "top_p", "torch_dtype", "torchscript", "transformers.js_config", "transformers_version", "typical_p",
    "unsloth_fixed", "unsloth_version", "use_bfloat16", "use_cache",
)  # fmt: skip


class _Settings:
    """The settings of a file as they are asked for, with all that is wrong with them."""

    def __init__(self, values: Mapping[str, Any]):
        self._values = values
        self._asked: set[str] = set()
        self.problems: list[str] = []

    def take(self, name: str, kind: type, default: Any = None) -> Any:
        """A setting; a stand-in of its type if it is missing or of another type, which is noted."""
        self._asked.add(name)
        value = self._values.get(name)
        if value is None:
            value = default
        if value is None:
            self.problems.append(f"{name} is missing")
        elif isinstance(value, bool) is not (kind is bool) or not isinstance(
            value, (int, float) if kind is float else kind
        ):
            self.problems.append(f"{name} is {_short(value)}, must be of the type {kind.__name__}")
        else:
            return kind(value)
        return {} if kind is dict else kind(1)

    def only(self, name: str, *neutral: Any) -> None:
        """Notes a setting whose value is not one of those that change nothing."""
        self._asked.add(name)
        value = self._values.get(name)
        if value is not None and value not in neutral:
            listed = " or ".join(map(repr, neutral)) or "leaving it out"
            self.problems.append(f"{name} is {_short(value)}; only {listed} is supported")

    def chosen(self, name: str, value: str, valid: Mapping[str, str]) -> str:
        """What a value of a setting means."""
        if value not in valid:
            self.problems.append(f"{name}: {unknown('value', value, valid)}")
        return valid.get(value, next(iter(valid.values())))

    def check_rest(self) -> None:
        """Notes all settings that nobody has asked for and that are switched on."""
        known = self._asked.union(_BOOKKEEPING)
        for name, value in self._values.items():
            if name not in known and value not in (None, False, 0, "", [], {}):
                self.problems.append(f"{unknown('setting', name, known)}; it is {_short(value)}")


def config_from_hf(values: Mapping[str, Any], *, own_head: bool, where: str) -> DecoderConfig | T5Config:
    """The configuration that a `config.json` describes.

    Args:
        values: the file's content.
        own_head: whether the tensors have a head that is not the embedding; decides for T5, whose files say
            `tie_word_embeddings` of models of both kinds.
        where: the file, for messages.

    Raises:
        CheckpointError: another family, settings that are missing, of the wrong type, or that the model does not
            have; all that were found.
    """
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in _READERS:
        raise CheckpointError(f"{where}: {unknown('model_type', str(model_type), _READERS)}")
    settings = _Settings(values)
    fields = _READERS[model_type](settings, own_head)
    settings.check_rest()
    if settings.problems:
        raise CheckpointError(f"{where} describes a model that is not supported:\n  " + "\n  ".join(settings.problems))
    try:
        return DecoderConfig(**fields) if model_type == "llama" else T5Config(**fields)
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error


def config_to_hf(config: DecoderConfig | T5Config, context_length: int) -> dict[str, Any]:
    """The inverse of `config_from_hf`: the model's part of a `config.json`.

    Args:
        config: the configuration.
        context_length: how long texts may be, in tokens; a decoder's file has to say one.

    Raises:
        CheckpointError: transformers has no such model.
    """
    return _llama_to_hf(config, context_length) if isinstance(config, DecoderConfig) else _t5_to_hf(config)


def _read_llama(s: _Settings, own_head: bool) -> dict[str, Any]:
    for name in ("attention_bias", "mlp_bias", "rope_interleaved", "use_sliding_window"):
        s.only(name, False)
    for name in ("sliding_window", "quantization_config"):
        s.only(name)
    s.only("partial_rotary_factor", 1.0)
    heads, width = s.take("num_attention_heads", int), s.take("hidden_size", int)
    return {
        "vocab_size": s.take("vocab_size", int),
        "emb_dim": width,
        "num_layers": s.take("num_hidden_layers", int),
        "num_heads": heads,
        "num_kv_heads": s.take("num_key_value_heads", int, heads),
        "head_dim": s.take("head_dim", int, width // max(heads, 1)),
        "mlp_dim": s.take("intermediate_size", int),
        "activation": s.chosen("hidden_act", s.take("hidden_act", str, "silu"), ACTIVATIONS),
        "rope_theta": _rope_theta(s),
        "norm_epsilon": s.take("rms_norm_eps", float, 1e-6),
        "tie_embeddings": s.take("tie_word_embeddings", bool, False),
    }


def _rope_theta(s: _Settings) -> float:
    """The base; newer files have it inside of `rope_parameters`."""
    theta: float = s.take("rope_theta", float, 10_000.0)
    for name in ("rope_scaling", "rope_parameters"):
        inside = s.take(name, dict, {})
        kind = inside.get("rope_type", inside.get("type", "default"))
        more = sorted(inside.keys() - {"rope_type", "type", "rope_theta"})
        if kind != "default" or more:
            s.problems.append(f"{name} is {_short(inside)}; only the rope_type 'default' is supported")
        base = inside.get("rope_theta", theta)
        if isinstance(base, bool) or not isinstance(base, int | float):
            s.problems.append(f"{name}: rope_theta is {_short(base)}, must be of the type float")
        else:
            theta = float(base)
    return theta


def _read_t5(s: _Settings, own_head: bool) -> dict[str, Any]:
    s.only("quantization_config")
    layers = s.take("num_layers", int)
    projection: str = s.take("feed_forward_proj", str, "relu")
    gated, _, activation = projection.rpartition("-")
    # "gated-gelu" is the one name that means the approximation.
    meant = "gelu_new" if projection == "gated-gelu" else activation
    if gated not in ("", "gated"):
        s.problems.append(f"feed_forward_proj is {projection!r}, must be ACTIVATION or gated-ACTIVATION")
    s.only("dense_act_fn", meant)
    s.only("is_gated_act", gated == "gated")
    # What was "tied" of old said whether the decoder's output is scaled, and every file that says so is still read so.
    scaled = s.take("scale_decoder_outputs", bool, s.take("tie_word_embeddings", bool, True))
    return {
        "vocab_size": s.take("vocab_size", int),
        "emb_dim": s.take("d_model", int),
        "num_encoder_layers": layers,
        "num_decoder_layers": s.take("num_decoder_layers", int, layers),
        "num_heads": s.take("num_heads", int),
        "head_dim": s.take("d_kv", int),
        "mlp_dim": s.take("d_ff", int),
        "activation": s.chosen("feed_forward_proj", meant, ACTIVATIONS),
        "gated_mlp": gated == "gated",
        "relative_buckets": s.take("relative_attention_num_buckets", int, 32),
        "relative_max_distance": s.take("relative_attention_max_distance", int, 128),
        "norm_epsilon": s.take("layer_norm_epsilon", float, 1e-6),
        "tie_embeddings": not own_head,
        "scale_decoder_outputs": scaled,
        "decoder_start_id": s.take("decoder_start_token_id", int, s.take("pad_token_id", int, 0)),
        "dropout_rate": s.take("dropout_rate", float, 0.0),
    }


def _read_mt5(s: _Settings, own_head: bool) -> dict[str, Any]:
    """mT5 is T5 1.1: whatever a file says of ties, nothing is scaled."""
    return _read_t5(s, own_head) | {"scale_decoder_outputs": False}


def _read_umt5(s: _Settings, own_head: bool) -> dict[str, Any]:
    s.only("scalable_attention", True)
    return _read_t5(s, own_head) | {"bias_per_layer": True}


_READERS: dict[str, Callable[[_Settings, bool], dict[str, Any]]] = {
    "llama": _read_llama,
    "t5": _read_t5,
    "mt5": _read_mt5,
    "umt5": _read_umt5,
}


def _llama_to_hf(c: DecoderConfig, context_length: int) -> dict[str, Any]:
    if c.prefix_lm:
        raise CheckpointError("transformers' Llama sees no prefix as a whole; a prefix-LM cannot be exported")
    names = {"silu": "silu", "relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "head_dim": c.head_dim,
        "hidden_act": names[c.activation],
        "hidden_size": c.emb_dim,
        "initializer_range": c.embedding_init_stddev,
        "intermediate_size": c.mlp_dim,
        "max_position_embeddings": context_length,
        "mlp_bias": False,
        "num_attention_heads": c.num_heads,
        "num_hidden_layers": c.num_layers,
        "num_key_value_heads": c.num_kv_heads,
        "rms_norm_eps": c.norm_epsilon,
        # Both spellings: version 5 of transformers reads the second, those before the first.
        "rope_theta": c.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},
        "tie_word_embeddings": c.tie_embeddings,
        "vocab_size": c.vocab_size,
    }


def _t5_to_hf(c: T5Config) -> dict[str, Any]:
    if c.scale_decoder_outputs and not c.tie_embeddings:
        raise CheckpointError(
            "transformers has no T5 whose head is its own and whose outputs are scaled (tie_embeddings=False with "
            "scale_decoder_outputs=True); it cannot be exported"
        )
    kind = "umt5" if c.bias_per_layer else "t5"
    plain = {"silu": "silu", "relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_new"}
    gated = {"silu": "gated-silu", "relu": "gated-relu", "gelu": "gated-gelu_python", "gelu_tanh": "gated-gelu"}
    return {
        "architectures": [f"{kind.upper()}ForConditionalGeneration"],
        "model_type": kind,
        "d_ff": c.mlp_dim,
        "d_kv": c.head_dim,
        "d_model": c.emb_dim,
        "decoder_start_token_id": c.decoder_start_id,
        "dropout_rate": c.dropout_rate,
        "feed_forward_proj": (gated if c.gated_mlp else plain)[c.activation],
        "is_encoder_decoder": True,
        "layer_norm_epsilon": c.norm_epsilon,
        "num_decoder_layers": c.num_decoder_layers,
        "num_heads": c.num_heads,
        "num_layers": c.num_encoder_layers,
        "relative_attention_max_distance": c.relative_max_distance,
        "relative_attention_num_buckets": c.relative_buckets,
        # The old name for "scaled": a head that is tied but not scaled is written out and called its own.
        "tie_word_embeddings": c.scale_decoder_outputs,
        "vocab_size": c.vocab_size,
    }


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
