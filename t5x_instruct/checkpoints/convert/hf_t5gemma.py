"""T5Gemma's part of a `config.json`: what transformers calls the sizes of its two stacks, and what it leaves out."""

from typing import Any

from t5x_instruct.checkpoints.convert.hf_layers import FULL, SLIDING, layer_count, layer_types
from t5x_instruct.checkpoints.convert.hf_rope import read_ropes
from t5x_instruct.checkpoints.convert.hf_settings import ACTIVATIONS, THEIR_ACTIVATIONS, Settings
from t5x_instruct.common.errors import CheckpointError
from t5x_instruct.models.layers.kinds import repeated
from t5x_instruct.models.t5gemma import GemmaStack, T5GemmaConfig


def read_t5gemma(s: Settings) -> dict[str, Any]:
    """The fields of a `T5GemmaConfig`; what is wrong is noted in `s`."""
    s.only("quantization_config")
    encoder, decoder = s.inside("encoder"), s.inside("decoder")
    fields = {
        # Older files have it in the sides alone.
        "vocab_size": s.take("vocab_size", int, decoder.take("vocab_size", int, 256_000)),
        "encoder": _read_stack(encoder),
        "decoder": _read_stack(decoder),
        "tie_embeddings": s.take("tie_word_embeddings", bool, True),
        "logits_soft_cap": decoder.optional("final_logit_softcapping", float, 30.0),
        "decoder_start_id": decoder.take("bos_token_id", int, 2),
        "dropout_rate": s.take("dropout_rate", float, 0.0),
    }
    encoder.ignore("final_logit_softcapping")  # it has no logits
    for side in (encoder, decoder):
        side.check_rest()
        s.problems += side.problems
    return fields


def _read_stack(s: Settings) -> GemmaStack:
    s.only("attention_bias", False)
    # All said elsewhere: of the whole model, or by the encoder.
    s.ignore("vocab_size", "cross_attention_hidden_size", "tie_word_embeddings", "dropout_rate")
    heads, width, layers = s.take("num_attention_heads", int), s.take("hidden_size", int), layer_count(s)
    types = layer_types(s, layers, lambda i: i % 2 == 0)
    window = s.take("sliding_window", int, 4096)
    ropes = read_ropes(s, 10_000.0)
    if ropes.scaling is not None:
        s.problem(f"the rope_type is {ropes.scaling.kind!r}; only 'default' is supported in this family")
    return GemmaStack(
        emb_dim=width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=s.take("num_key_value_heads", int, heads),
        head_dim=s.take("head_dim", int, 256),
        mlp_dim=s.take("intermediate_size", int),
        activation=s.chosen("hidden_activation", s.take("hidden_activation", str, "gelu_pytorch_tanh"), ACTIVATIONS),
        rope_theta=ropes.theta,
        query_pre_attn_scalar=s.take("query_pre_attn_scalar", float, 256.0),
        attention_soft_cap=s.optional("attn_logit_softcapping", float, 50.0),
        layer_windows=tuple(window if one == SLIDING else 0 for one in types),
        norm_epsilon=s.take("rms_norm_eps", float, 1e-6),
    )


def t5gemma_to_hf(c: T5GemmaConfig, context_length: int) -> dict[str, Any]:
    """The inverse of `read_t5gemma`.

    Args:
        c: the configuration.
        context_length: how long texts may be, in tokens.

    Raises:
        CheckpointError: a side has windows of several sizes.
    """
    return {
        "architectures": ["T5GemmaForConditionalGeneration"],
        "model_type": "t5gemma",
        "encoder": _write_stack(c, c.encoder, context_length),
        "decoder": _write_stack(c, c.decoder, context_length),
        "dropout_rate": c.dropout_rate,
        "is_encoder_decoder": True,
        "tie_word_embeddings": c.tie_embeddings,
        "vocab_size": c.vocab_size,
    }


def _write_stack(c: T5GemmaConfig, s: GemmaStack, context_length: int) -> dict[str, Any]:
    windows = repeated(s.layer_windows, s.num_layers)
    if len(set(windows) - {0}) > 1:
        raise CheckpointError(f"transformers' T5Gemma has one window in a stack; layer_windows is {s.layer_windows}")
    scalar = float(s.query_pre_attn_scalar)
    return {
        "model_type": "t5_gemma_module",
        "attention_bias": False,
        "attn_logit_softcapping": s.attention_soft_cap,
        "bos_token_id": c.decoder_start_id,
        "final_logit_softcapping": c.logits_soft_cap,
        "head_dim": s.head_dim,
        "hidden_activation": THEIR_ACTIVATIONS[s.activation],
        "hidden_size": s.emb_dim,
        "initializer_range": c.embedding_init_stddev,
        "intermediate_size": s.mlp_dim,
        "layer_types": [SLIDING if window else FULL for window in windows],
        "max_position_embeddings": context_length,
        "num_attention_heads": s.num_heads,
        "num_hidden_layers": s.num_layers,
        "num_key_value_heads": s.num_kv_heads,
        # transformers wants a whole number
        "query_pre_attn_scalar": int(scalar) if scalar.is_integer() else scalar,
        "rms_norm_eps": s.norm_epsilon,
        "rope_parameters": {"rope_type": "default", "rope_theta": s.rope_theta},
        "rope_theta": s.rope_theta,
        "sliding_window": max(windows) or 4096,
        "vocab_size": c.vocab_size,
    }
