"""Hugging Face's `config.json` to a configuration of ours, and back."""

from collections.abc import Callable, Mapping
from typing import Any

from t5x_instruct.checkpoints.convert.hf_decoders import DECODERS, decoder_to_hf, read_decoder
from t5x_instruct.checkpoints.convert.hf_settings import ACTIVATIONS, Settings
from t5x_instruct.checkpoints.convert.hf_t5gemma import read_t5gemma, read_t5gemma2, t5gemma_to_hf
from t5x_instruct.checkpoints.convert.hf_tables import ModelConfig
from t5x_instruct.common.errors import CheckpointError, ConfigError, unknown
from t5x_instruct.models.decoder import DecoderConfig
from t5x_instruct.models.t5 import T5Config
from t5x_instruct.models.t5gemma import T5GemmaConfig

CONFIG_FILE = "config.json"
_T5GEMMA = {"t5gemma": read_t5gemma, "t5gemma2": read_t5gemma2}


def config_from_hf(values: Mapping[str, Any], *, own_head: bool, where: str) -> ModelConfig:
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
    valid = (*_T5, *_T5GEMMA, *DECODERS)
    if not isinstance(model_type, str) or model_type not in valid:
        raise CheckpointError(f"{where}: {unknown('model_type', str(model_type), valid)}")
    settings = Settings(values)
    family: type[ModelConfig]
    if model_type in DECODERS:
        family, fields = DecoderConfig, read_decoder(settings, model_type)
    elif model_type in _T5GEMMA:
        family, fields = T5GemmaConfig, _T5GEMMA[model_type](settings)
    else:
        family, fields = T5Config, _T5[model_type](settings, own_head)
    settings.check_rest()
    if settings.problems:
        raise CheckpointError(f"{where} describes a model that is not supported:\n  " + "\n  ".join(settings.problems))
    try:
        return family(**fields)
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error


def config_to_hf(config: ModelConfig, context_length: int) -> dict[str, Any]:
    """The inverse of `config_from_hf`: the model's part of a `config.json`.

    Args:
        config: the configuration.
        context_length: how long texts may be, in tokens; a decoder's file has to say one.

    Raises:
        CheckpointError: transformers has no such model.
    """
    if isinstance(config, T5GemmaConfig):
        return t5gemma_to_hf(config, context_length)
    return decoder_to_hf(config, context_length) if isinstance(config, DecoderConfig) else _t5_to_hf(config)


def _read_t5(s: Settings, own_head: bool) -> dict[str, Any]:
    s.only("quantization_config")
    layers = s.take("num_layers", int)
    projection: str = s.take("feed_forward_proj", str, "relu")
    gated, _, activation = projection.rpartition("-")
    # "gated-gelu" is the one name that means the approximation.
    meant = "gelu_new" if projection == "gated-gelu" else activation
    if gated not in ("", "gated"):
        s.problem(f"feed_forward_proj is {projection!r}, must be ACTIVATION or gated-ACTIVATION")
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


def _read_mt5(s: Settings, own_head: bool) -> dict[str, Any]:
    """mT5 is T5 1.1: whatever a file says of ties, nothing is scaled."""
    return _read_t5(s, own_head) | {"scale_decoder_outputs": False}


def _read_umt5(s: Settings, own_head: bool) -> dict[str, Any]:
    s.only("scalable_attention", True)
    return _read_t5(s, own_head) | {"bias_per_layer": True}


_T5: Mapping[str, Callable[[Settings, bool], dict[str, Any]]] = {
    "t5": _read_t5,
    "mt5": _read_mt5,
    "umt5": _read_umt5,
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
