"""The decoder families' part of a `config.json`: what each calls what it has, and what it says if nothing is said."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from t5x_instruct.checkpoints.convert.hf_layers import FULL, SLIDING, layer_count, layer_types
from t5x_instruct.checkpoints.convert.hf_rope import Ropes, read_ropes, write_ropes
from t5x_instruct.checkpoints.convert.hf_settings import ACTIVATIONS, THEIR_ACTIVATIONS, Settings, short
from t5x_instruct.common.errors import CheckpointError, ConfigError
from t5x_instruct.models.decoder import DecoderConfig
from t5x_instruct.models.layers.kinds import repeated, shortest_pattern


class DecoderFamily(NamedTuple):
    """A family as transformers has it.

    Attributes:
        architecture: the class that its files name.
        read: the fields that only this family has, or has otherwise.
        write: the inverse; what it cannot say is left out, and noticed when the result is read again.
    """

    architecture: str
    read: Callable[[Settings, dict[str, Any]], dict[str, Any]]
    write: Callable[[DecoderConfig], dict[str, Any]]


def read_decoder(s: Settings, model_type: str) -> dict[str, Any]:
    """The fields of a `DecoderConfig`; what is wrong is noted in `s`.

    Args:
        s: the file's settings.
        model_type: a key of `DECODERS`.
    """
    s.only("quantization_config")
    s.only("partial_rotary_factor", 1.0)
    heads, width = s.take("num_attention_heads", int), s.take("hidden_size", int)
    common = {
        "vocab_size": s.take("vocab_size", int),
        "emb_dim": width,
        "num_layers": layer_count(s),
        "num_heads": heads,
        "num_kv_heads": s.take("num_key_value_heads", int, heads),
        "mlp_dim": s.take("intermediate_size", int),
    }
    fields = common | DECODERS[model_type].read(s, common)
    if "head_dim" not in fields:
        fields["head_dim"] = s.take("head_dim", int, width // max(heads, 1))
    return fields


def decoder_to_hf(c: DecoderConfig, context_length: int) -> dict[str, Any]:
    """The model's part of a `config.json`, of the first family that is all that the model is.

    Args:
        c: the configuration.
        context_length: how long texts may be, in tokens.

    Raises:
        CheckpointError: no family of transformers computes what the model does.
    """
    if c.prefix_lm:
        raise CheckpointError("no decoder of transformers sees a prefix as a whole; a prefix-LM cannot be exported")
    wanted = _canonical(c)
    closest: tuple[str, list[str]] | None = None
    for model_type, family in DECODERS.items():
        values = _written(c, model_type, family, context_length)
        s = Settings(values)
        fields = read_decoder(s, model_type)
        s.check_rest()
        try:
            found = _canonical(dataclasses.replace(c, **_NEUTRAL | fields))
        except ConfigError:
            continue  # it says something else than what was to be said
        lost = [f.name for f in dataclasses.fields(c) if getattr(found, f.name) != getattr(wanted, f.name)]
        if not lost and not s.problems:
            return values
        if closest is None or len(lost) < len(closest[1]):
            closest = model_type, lost
    model_type, lost = closest or ("llama", [])
    differing = ", ".join(f"{name}={short(getattr(c, name))}" for name in lost)
    raise CheckpointError(
        f"no model of transformers that is known here computes this; the closest is {model_type!r}, which cannot have "
        f"{differing}. Valid: {', '.join(DECODERS)}"
    )


# What a family's file does not speak of.
_NEUTRAL: dict[str, Any] = {
    f.name: f.default
    for f in dataclasses.fields(DecoderConfig)
    if f.name
    in (
        "rope_scaling", "local_rope_theta", "layer_ropes", "layer_windows", "query_pre_attn_scalar",
        "attention_soft_cap", "logits_soft_cap", "logits_multiplier", "scale_embeddings", "qkv_bias", "out_bias",
        "mlp_bias", "qk_norm", "norm", "norm_around_one", "norm_placement", "parallel_block",
    )
}  # fmt: skip


def _canonical(c: DecoderConfig) -> DecoderConfig:
    """The same model, with patterns and what follows from other fields written in one way."""
    scalar = c.head_dim if c.query_pre_attn_scalar is None else c.query_pre_attn_scalar
    return dataclasses.replace(
        c,
        layer_ropes=_pattern(repeated(c.layer_ropes or ("global",), c.num_layers), "global"),
        layer_windows=_pattern(repeated(c.layer_windows or (0,), c.num_layers), 0),
        query_pre_attn_scalar=float(scalar),
    )


def _pattern(per_layer: list[Any], plain: Any) -> tuple[Any, ...]:
    pattern = shortest_pattern(per_layer)
    return () if pattern == (plain,) else pattern


def _written(c: DecoderConfig, model_type: str, family: DecoderFamily, context_length: int) -> dict[str, Any]:
    return {
        "architectures": [family.architecture],
        "model_type": model_type,
        "hidden_act": THEIR_ACTIVATIONS[c.activation],
        "hidden_size": c.emb_dim,
        "initializer_range": c.embedding_init_stddev,
        "intermediate_size": c.mlp_dim,
        "max_position_embeddings": context_length,
        "num_attention_heads": c.num_heads,
        "num_hidden_layers": c.num_layers,
        "num_key_value_heads": c.num_kv_heads,
        "tie_word_embeddings": c.tie_embeddings,
        "vocab_size": c.vocab_size,
        "head_dim": c.head_dim,
    } | family.write(c)


def _activation(s: Settings, name: str = "hidden_act", default: str = "silu") -> dict[str, Any]:
    return {"activation": s.chosen(name, s.take(name, str, default), ACTIVATIONS)}


def _rms(s: Settings, epsilon: float = 1e-6) -> dict[str, Any]:
    return {"norm_epsilon": s.take("rms_norm_eps", float, epsilon)}


def _tied(s: Settings, default: bool) -> dict[str, Any]:
    return {"tie_embeddings": s.take("tie_word_embeddings", bool, default)}


def _attention_bias(s: Settings) -> dict[str, Any]:
    bias = s.take("attention_bias", bool, False)
    return {"qkv_bias": bias, "out_bias": bias}


def _write_attention_bias(c: DecoderConfig) -> dict[str, Any]:
    return {"attention_bias": c.qkv_bias}


def _windows(s: Settings, types: list[str]) -> dict[str, Any]:
    size = s.take("sliding_window", int) if SLIDING in types else 0
    s.ignore("sliding_window")
    return {"layer_windows": _pattern([size if one == SLIDING else 0 for one in types], 0)}


def _write_windows(c: DecoderConfig) -> dict[str, Any]:
    """`layer_types`, and the one size that all windows have (of several, the first: the others are noticed)."""
    windows = repeated(c.layer_windows or (0,), c.num_layers)
    sizes = [size for size in windows if size]
    return {
        "layer_types": [SLIDING if size else FULL for size in windows],
        "sliding_window": sizes[0] if sizes else None,
    }


def _ropes(ropes: Ropes, types: list[str]) -> dict[str, Any]:
    """Fields of ropes that differ between layers with windows and without."""
    fields: dict[str, Any] = {"rope_theta": ropes.theta, "rope_scaling": ropes.scaling}
    if ropes.local_theta is None or SLIDING not in types or (ropes.local_theta, None) == (ropes.theta, ropes.scaling):
        return fields
    pattern = shortest_pattern(["local" if one == SLIDING else "global" for one in types])
    return fields | {"layer_ropes": pattern, "local_rope_theta": ropes.local_theta}


def _plain_ropes(s: Settings, theta: float | None) -> dict[str, Any]:
    return _ropes(read_ropes(s, theta), [])


def _read_llama(s: Settings, common: Mapping[str, Any]) -> dict[str, Any]:
    for name in ("rope_interleaved", "use_sliding_window"):
        s.only(name, False)
    s.only("sliding_window")
    return (
        {"mlp_bias": s.take("mlp_bias", bool, False)}
        | _attention_bias(s)
        | _activation(s)
        | _rms(s)
        | _tied(s, False)
        | _plain_ropes(s, 10_000.0)
    )


def _write_llama(c: DecoderConfig) -> dict[str, Any]:
    return {"mlp_bias": c.mlp_bias, "rms_norm_eps": c.norm_epsilon} | _write_attention_bias(c) | write_ropes(c)


def _read_mistral(s: Settings, common: Mapping[str, Any]) -> dict[str, Any]:
    s.only("layer_types")
    window = s.optional("sliding_window", int)
    windows = {"layer_windows": (window,)} if window else {}
    return windows | _activation(s) | _rms(s) | _tied(s, False) | _plain_ropes(s, 10_000.0)


def _write_mistral(c: DecoderConfig) -> dict[str, Any]:
    window = _write_windows(c)["sliding_window"]
    return {"sliding_window": window, "rms_norm_eps": c.norm_epsilon} | write_ropes(c)


def _qwen_layers(s: Settings, num_layers: int) -> list[str]:
    s.only("use_mrope", False)
    switched_on = s.take("use_sliding_window", bool, False)
    first = s.take("max_window_layers", int, 28)
    types = layer_types(s, num_layers, lambda i: switched_on and s.has("sliding_window") and i >= first)
    if SLIDING in types and not switched_on:
        s.problem("use_sliding_window is false, but layer_types has sliding layers; make them agree")
    return types


def _write_qwen_layers(c: DecoderConfig) -> dict[str, Any]:
    windows = _write_windows(c)
    first = (windows["layer_types"] + [SLIDING]).index(SLIDING)
    return windows | {"use_sliding_window": windows["sliding_window"] is not None, "max_window_layers": first}


def _read_qwen2(s: Settings, common: Mapping[str, Any]) -> dict[str, Any]:
    windows = _windows(s, _qwen_layers(s, common["num_layers"]))
    fixed = {"qkv_bias": True}
    return fixed | windows | _activation(s) | _rms(s) | _tied(s, False) | _plain_ropes(s, 10_000.0)


def _write_qwen2(c: DecoderConfig) -> dict[str, Any]:
    return {"rms_norm_eps": c.norm_epsilon} | _write_qwen_layers(c) | write_ropes(c)


def _read_qwen3(s: Settings, common: Mapping[str, Any]) -> dict[str, Any]:
    windows = _windows(s, _qwen_layers(s, common["num_layers"]))
    fixed = {"qk_norm": "head", "head_dim": s.take("head_dim", int, 128)}
    return fixed | windows | _attention_bias(s) | _activation(s) | _rms(s) | _tied(s, False) | _plain_ropes(s, 10_000.0)


def _write_qwen3(c: DecoderConfig) -> dict[str, Any]:
    return _write_qwen2(c) | _write_attention_bias(c)


def _read_smollm3(s: Settings, common: Mapping[str, Any]) -> dict[str, Any]:
    count = common["num_layers"]
    interval = s.take("no_rope_layer_interval", int, 4)
    turned: list[Any] = [bool((i + 1) % max(interval, 1)) for i in range(count)]
    if s.has("no_rope_layers"):
        turned = s.take("no_rope_layers", list)  # 1 where there are positions
        if len(turned) != count or any(one not in (0, 1) for one in turned):
            s.problem(f"no_rope_layers is {short(turned)}, must be 0 or 1 for each of {count} layers")
            turned = [1] * count
    switched_on = s.take("use_sliding_window", bool, False)
    s.ignore("max_window_layers")
    types = layer_types(s, count, lambda i: switched_on and s.has("sliding_window") and not turned[i])
    if SLIDING in types and not switched_on:
        s.problem("use_sliding_window is false, but layer_types has sliding layers; make them agree")
    return (
        {"mlp_bias": s.take("mlp_bias", bool, False)}
        | _windows(s, types)
        | _attention_bias(s)
        | _activation(s)
        | _rms(s)
        | _tied(s, True)
        | _plain_ropes(s, 2_000_000.0)
        | {"layer_ropes": _pattern(["global" if one else "none" for one in turned], "global")}
    )


def _write_smollm3(c: DecoderConfig) -> dict[str, Any]:
    windows = _write_windows(c)
    ropes = repeated(c.layer_ropes or ("global",), c.num_layers)
    return (
        _write_llama(c)
        | windows
        | {
            "use_sliding_window": windows["sliding_window"] is not None,
            "no_rope_layers": [0 if rope == "none" else 1 for rope in ropes],
        }
    )


def _read_gemma(s: Settings, common: Mapping[str, Any], interval: int, cap: float | None) -> dict[str, Any]:
    """What Gemma 2 and 3 share; all but every `interval`-th layer have windows, `cap` is of logits if none is given."""
    s.only("use_bidirectional_attention", False)
    s.ignore("hidden_act")  # the first files had both, and only the other was read
    head_dim = s.take("head_dim", int, 256)
    types = layer_types(s, common["num_layers"], lambda i: bool((i + 1) % max(interval, 1)))
    return (
        {
            "head_dim": head_dim,
            "query_pre_attn_scalar": s.take("query_pre_attn_scalar", float, 256.0),
            "logits_soft_cap": s.optional("final_logit_softcapping", float, cap),
            "scale_embeddings": True,
            "norm_around_one": True,
            "norm_placement": "both",
        }
        | _windows(s, types)
        | _attention_bias(s)
        | _activation(s, "hidden_activation", "gelu_pytorch_tanh")
        | _rms(s)
        | _tied(s, True)
    )


def _write_gemma(c: DecoderConfig) -> dict[str, Any]:
    scalar = float(c.head_dim if c.query_pre_attn_scalar is None else c.query_pre_attn_scalar)
    return (
        {
            "rms_norm_eps": c.norm_epsilon,
            "hidden_activation": THEIR_ACTIVATIONS[c.activation],
            # transformers wants a whole number
            "query_pre_attn_scalar": int(scalar) if scalar.is_integer() else scalar,
            "final_logit_softcapping": c.logits_soft_cap,
        }
        | _write_windows(c)
        | _write_attention_bias(c)
    )


def _read_gemma2(s: Settings, common: Mapping[str, Any]) -> dict[str, Any]:
    cap = {"attention_soft_cap": s.optional("attn_logit_softcapping", float, 50.0)}
    return _read_gemma(s, common, 2, 30.0) | cap | _plain_ropes(s, 10_000.0)


def _write_gemma2(c: DecoderConfig) -> dict[str, Any]:
    return _write_gemma(c) | {"attn_logit_softcapping": c.attention_soft_cap} | write_ropes(c)


def _read_gemma3(s: Settings, common: Mapping[str, Any]) -> dict[str, Any]:
    s.only("attn_logit_softcapping")
    s.ignore("_sliding_window_pattern")
    fields = _read_gemma(s, common, s.take("sliding_window_pattern", int, 6), None)
    types = _types_of(fields, common["num_layers"])
    ropes = read_ropes(s, 1_000_000.0, s.take("rope_local_base_freq", float, 10_000.0))
    return fields | {"qk_norm": "head"} | _ropes(ropes, types)


def _types_of(fields: Mapping[str, Any], num_layers: int) -> list[str]:
    return [SLIDING if size else FULL for size in repeated(fields["layer_windows"] or (0,), num_layers)]


def _write_gemma3(c: DecoderConfig) -> dict[str, Any]:
    local = c.rope_theta if c.local_rope_theta is None else c.local_rope_theta
    return _write_gemma(c) | {"rope_local_base_freq": local} | write_ropes(c, by_layer=True)


def _read_olmo2(s: Settings, common: Mapping[str, Any]) -> dict[str, Any]:
    return (
        {"qk_norm": "projection", "norm_placement": "post"}
        | _attention_bias(s)
        | _activation(s)
        | _rms(s, 1e-5)
        | _tied(s, False)
        | _plain_ropes(s, 10_000.0)
    )


def _write_olmo2(c: DecoderConfig) -> dict[str, Any]:
    return {"rms_norm_eps": c.norm_epsilon} | _write_attention_bias(c) | write_ropes(c)


def _read_olmo3(s: Settings, common: Mapping[str, Any]) -> dict[str, Any]:
    types = layer_types(s, common["num_layers"], lambda i: bool((i + 1) % 4))
    theta = s.take("rope_theta", float, 500_000.0)
    return (
        {"qk_norm": "projection", "norm_placement": "post"}
        | _windows(s, types)
        | _attention_bias(s)
        | _activation(s)
        | _rms(s, 1e-5)
        | _tied(s, False)
        | _ropes(read_ropes(s, theta, theta), types)
    )


def _write_olmo3(c: DecoderConfig) -> dict[str, Any]:
    return (
        {"rms_norm_eps": c.norm_epsilon} | _write_windows(c) | _write_attention_bias(c) | write_ropes(c, by_layer=True)
    )


def _read_cohere(s: Settings, common: Mapping[str, Any]) -> dict[str, Any]:
    s.only("use_qk_norm", False)
    fixed = {"norm": "layer", "parallel_block": True}
    return (
        fixed
        | {"logits_multiplier": s.take("logit_scale", float, 0.0625)}
        | {"norm_epsilon": s.take("layer_norm_eps", float, 1e-5)}
        | _attention_bias(s)
        | _activation(s)
        | _tied(s, True)
        | _plain_ropes(s, None)
    )


def _write_cohere(c: DecoderConfig) -> dict[str, Any]:
    numbers = {"layer_norm_eps": c.norm_epsilon, "logit_scale": c.logits_multiplier}
    return numbers | _write_attention_bias(c) | write_ropes(c)


def _read_cohere2(s: Settings, common: Mapping[str, Any]) -> dict[str, Any]:
    # The first files say of the block what cannot be otherwise.
    for name in ("use_gated_activation", "use_parallel_block"):
        s.only(name, True)
    s.only("position_embedding_type", "rope_gptj")
    s.only("rotary_pct", 1.0)
    s.only("order_of_interleaved_layers", "local_attn_first")
    s.ignore("layer_switch", "use_embedding_sharing", "use_parallel_embedding")
    s.only("head_dim", common["emb_dim"] // max(common["num_heads"], 1))  # transformers overwrites another
    interval = s.take("sliding_window_pattern", int, 4)
    types = layer_types(s, common["num_layers"], lambda i: bool((i + 1) % max(interval, 1)))
    ropes = _pattern(["global" if one == SLIDING else "none" for one in types], "global")
    return _read_cohere(s, common) | _windows(s, types) | {"layer_ropes": ropes}


def _write_cohere2(c: DecoderConfig) -> dict[str, Any]:
    return _write_cohere(c) | _write_windows(c)


#: By `model_type`, in the order in which an export looks for one that is all that the model is.
DECODERS: Mapping[str, DecoderFamily] = {
    "llama": DecoderFamily("LlamaForCausalLM", _read_llama, _write_llama),
    "mistral": DecoderFamily("MistralForCausalLM", _read_mistral, _write_mistral),
    "qwen2": DecoderFamily("Qwen2ForCausalLM", _read_qwen2, _write_qwen2),
    "qwen3": DecoderFamily("Qwen3ForCausalLM", _read_qwen3, _write_qwen3),
    "smollm3": DecoderFamily("SmolLM3ForCausalLM", _read_smollm3, _write_smollm3),
    "gemma2": DecoderFamily("Gemma2ForCausalLM", _read_gemma2, _write_gemma2),
    "gemma3_text": DecoderFamily("Gemma3ForCausalLM", _read_gemma3, _write_gemma3),
    "olmo2": DecoderFamily("Olmo2ForCausalLM", _read_olmo2, _write_olmo2),
    "olmo3": DecoderFamily("Olmo3ForCausalLM", _read_olmo3, _write_olmo3),
    "cohere": DecoderFamily("CohereForCausalLM", _read_cohere, _write_cohere),
    "cohere2": DecoderFamily("Cohere2ForCausalLM", _read_cohere2, _write_cohere2),
}
