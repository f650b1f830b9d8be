"""T5Gemma's and T5Gemma 2's part of a `config.json`: what transformers calls their sizes, and what it leaves out."""

import dataclasses
from typing import Any

from t5x_instruct.checkpoints.convert.hf_layers import FULL, SLIDING, layer_count, layer_types
from t5x_instruct.checkpoints.convert.hf_rope import read_ropes, write_ropes
from t5x_instruct.checkpoints.convert.hf_settings import ACTIVATIONS, THEIR_ACTIVATIONS, Settings, short
from t5x_instruct.common.errors import CheckpointError
from t5x_instruct.models.layers.kinds import repeated
from t5x_instruct.models.t5gemma import GemmaStack, T5GemmaConfig

#: A tower that makes nothing of an image, in as few numbers as can be: files of T5Gemma 2 have one.
NO_VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1,
    "image_size": 1,
    "intermediate_size": 1,
    "num_attention_heads": 1,
    "num_channels": 3,
    "num_hidden_layers": 0,
    "patch_size": 1,
    "vision_use_head": False,
}


def read_t5gemma(s: Settings) -> dict[str, Any]:
    """The fields of a `T5GemmaConfig` from T5Gemma's file; what is wrong is noted in `s`."""
    encoder, decoder = s.inside("encoder"), s.inside("decoder")
    fields = _read_model(s, decoder, 256_000, 30.0)
    fields |= {"encoder": _read_gemma2(encoder), "decoder": _read_gemma2(decoder)}
    encoder.ignore("final_logit_softcapping")  # it has no logits
    for side in (encoder, decoder):
        side.check_rest()
        s.problems += side.problems
    return fields


def read_t5gemma2(s: Settings) -> dict[str, Any]:
    """The same from T5Gemma 2's file, of which what reads images is left out."""
    encoder, decoder = s.inside("encoder"), s.inside("decoder")
    text = encoder.inside("text_config")
    fields = _read_model(s, decoder, 262_208, None)
    fields |= {
        "encoder": _read_gemma3(text),
        "decoder": _read_gemma3(decoder),
        "merged_attention": True,
        "share_embeddings": fields["tie_embeddings"],
        "encoder_window": "centered",
        "end_of_image_id": encoder.take("eoi_token_index", int, 256_000),
    }
    s.ignore("eoi_token_index", "image_token_index")  # the encoder says the first, images need the second
    encoder.ignore("vision_config", "mm_tokens_per_image", "boi_token_index", "image_token_index")
    encoder.ignore("vocab_size", "tie_word_embeddings", "dropout_rate")  # said elsewhere
    text.ignore("final_logit_softcapping")
    for part in (text, encoder, decoder):
        part.check_rest()
        s.problems += part.problems
    return fields


def _read_model(s: Settings, decoder: Settings, vocab_size: int, logits_soft_cap: float | None) -> dict[str, Any]:
    """What is not of one stack; the two values are those of a file that says nothing."""
    s.only("quantization_config")
    return {
        # Older files have it in the sides alone.
        "vocab_size": s.take("vocab_size", int, decoder.take("vocab_size", int, vocab_size)),
        "tie_embeddings": s.take("tie_word_embeddings", bool, True),
        "logits_soft_cap": decoder.optional("final_logit_softcapping", float, logits_soft_cap),
        "decoder_start_id": decoder.take("bos_token_id", int, 2),
        "dropout_rate": s.take("dropout_rate", float, 0.0),
    }


def _read_gemma2(s: Settings) -> GemmaStack:
    sizes = _read_sizes(s)
    types = layer_types(s, sizes["num_layers"], lambda i: i % 2 == 0)
    ropes = read_ropes(s, 10_000.0)
    if ropes.scaling is not None:
        s.problem(f"the rope_type is {ropes.scaling.kind!r}; only 'default' is supported in this family")
    return GemmaStack(
        **sizes,
        rope_theta=ropes.theta,
        attention_soft_cap=s.optional("attn_logit_softcapping", float, 50.0),
        layer_windows=_windows(s, types),
    )


def _read_gemma3(s: Settings) -> GemmaStack:
    # Files may hold a soft cap of the scores, which transformers reads and does not apply.
    s.only("attn_logit_softcapping")
    s.ignore("_sliding_window_pattern")
    sizes, period = _read_sizes(s), s.take("sliding_window_pattern", int, 6)
    types = layer_types(s, sizes["num_layers"], lambda i: bool((i + 1) % max(period, 1)))
    ropes = read_ropes(s, 1_000_000.0, s.take("rope_local_base_freq", float, 10_000.0))
    return GemmaStack(
        **sizes,
        rope_theta=ropes.theta,
        rope_scaling=ropes.scaling,
        local_rope_theta=ropes.local_theta if SLIDING in types else None,
        attention_soft_cap=None,
        layer_windows=_windows(s, types),
        qk_norm=True,
    )


def _read_sizes(s: Settings) -> dict[str, Any]:
    """What both families' stacks have; a file leaves out what is as in the smallest Gemma 2."""
    s.only("attention_bias", False)
    # All said elsewhere: of the whole model, or by the encoder.
    s.ignore("vocab_size", "cross_attention_hidden_size", "tie_word_embeddings", "dropout_rate")
    return {
        "emb_dim": s.take("hidden_size", int, 2304),
        "num_layers": layer_count(s, 26),
        "num_heads": s.take("num_attention_heads", int, 8),
        "num_kv_heads": s.take("num_key_value_heads", int, 4),
        "head_dim": s.take("head_dim", int, 256),
        "mlp_dim": s.take("intermediate_size", int, 9216),
        "activation": s.chosen("hidden_activation", s.take("hidden_activation", str, "gelu_pytorch_tanh"), ACTIVATIONS),
        "query_pre_attn_scalar": s.take("query_pre_attn_scalar", float, 256.0),
        "norm_epsilon": s.take("rms_norm_eps", float, 1e-6),
    }


def _windows(s: Settings, types: list[str]) -> tuple[int, ...]:
    window = s.take("sliding_window", int, 4096)
    return tuple(window if one == SLIDING else 0 for one in types)


def t5gemma_to_hf(c: T5GemmaConfig, context_length: int) -> dict[str, Any]:
    """The inverse of `read_t5gemma2` where attention is merged, else of `read_t5gemma`.

    Args:
        c: the configuration.
        context_length: how long texts may be, in tokens.

    Raises:
        CheckpointError: the family cannot be all that is configured; names what.
    """
    sides = {side: _write_stack(c, getattr(c, side), context_length) for side in ("encoder", "decoder")}
    family = "T5Gemma2" if c.merged_attention else "T5Gemma"
    values: dict[str, Any] = {
        "architectures": [f"{family}ForConditionalGeneration"],
        "model_type": family.lower(),
        "dropout_rate": c.dropout_rate,
        "is_encoder_decoder": True,
        "tie_word_embeddings": c.tie_embeddings,
        "vocab_size": c.vocab_size,
    }
    if c.merged_attention:
        encoder = {
            "model_type": "t5gemma2_encoder",
            "mm_tokens_per_image": 1,
            "text_config": sides["encoder"] | {"model_type": "t5gemma2_text"},
            "tie_word_embeddings": c.tie_embeddings,
            "vision_config": NO_VISION,
        }
        if c.end_of_image_id is not None:
            encoder["eoi_token_index"] = c.end_of_image_id
        values |= {"encoder": encoder, "decoder": sides["decoder"] | {"model_type": "t5gemma2_decoder"}}
    else:
        values |= {side: of_side | {"model_type": "t5_gemma_module"} for side, of_side in sides.items()}
    _check_nothing_is_lost(c, values)
    return values


def _write_stack(c: T5GemmaConfig, s: GemmaStack, context_length: int) -> dict[str, Any]:
    windows = repeated(s.layer_windows, s.num_layers)
    scalar = float(s.query_pre_attn_scalar)
    return {
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
        "sliding_window": max(windows) or 4096,
        "vocab_size": c.vocab_size,
    } | write_ropes(s, by_layer=c.merged_attention)


# What T5Gemma's file does not speak of.
_NEUTRAL: dict[str, Any] = {"share_embeddings": False, "encoder_window": "each_side", "end_of_image_id": None}


def _check_nothing_is_lost(c: T5GemmaConfig, values: dict[str, Any]) -> None:
    """Reads what is to be written."""
    s = Settings(values)
    fields = (read_t5gemma2 if c.merged_attention else read_t5gemma)(s)
    wanted, found = _named(c), _named(dataclasses.replace(c, **_NEUTRAL | fields))
    lost = [f"{name}={short(value)}" for name, value in wanted.items() if found[name] != value]
    for side in ("encoder", "decoder"):
        stack: GemmaStack = getattr(c, side)
        if stack.emb_dim % stack.num_heads:
            lost.append(f"{side}.emb_dim={stack.emb_dim}, which is no multiple of num_heads={stack.num_heads}")
    if lost:
        name = "T5Gemma 2" if c.merged_attention else "T5Gemma"
        raise CheckpointError(f"transformers' {name} cannot have {', '.join(lost)}")


def _named(c: T5GemmaConfig) -> dict[str, Any]:
    """All fields by name, those of one meaning in one way."""
    found = {field.name: getattr(c, field.name) for field in dataclasses.fields(c)}
    for side in ("encoder", "decoder"):
        stack: GemmaStack = found.pop(side)
        found |= {f"{side}.{field.name}": getattr(stack, field.name) for field in dataclasses.fields(stack)}
        found[f"{side}.layer_windows"] = repeated(stack.layer_windows, stack.num_layers)
        if not any(stack.layer_windows):
            found[f"{side}.local_rope_theta"] = None
        elif stack.local_rope_theta is None and stack.rope_scaling is None:
            found[f"{side}.local_rope_theta"] = stack.rope_theta
    return found
