"""Reading the golden files, without torch (what they hold: make.py)."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from t5x_instruct.checkpoints.convert.hf_config import config_from_hf
from t5x_instruct.models.decoder import DecoderConfig
from t5x_instruct.models.t5 import T5Config
from t5x_instruct.models.t5gemma import GemmaStack, T5GemmaConfig

GOLDEN = Path(__file__).parent.parent / "golden"
ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}

Golden = dict[str, np.ndarray]


def cases(family: str) -> list[str]:
    return sorted(path.stem for path in GOLDEN.glob(f"{family}_*.npz"))


def load(case: str) -> Golden:
    with np.load(GOLDEN / f"{case}.npz", allow_pickle=False) as file:
        return dict(file)


def tensors(golden: Golden, kind: str) -> Golden:
    return {k.removeprefix(f"{kind}/"): v for k, v in golden.items() if k.startswith(f"{kind}/")}


def config_of(golden: Golden, **changes: Any) -> Any:
    """Our configuration; the vocabulary is not padded unless `changes` say so."""
    if "config" in golden:
        values = json.loads(str(golden["config"]))
        config = config_from_hf(values, own_head=not values.get("tie_word_embeddings", True), where="golden")
        return dataclasses.replace(config, **({"vocab_multiple": 1} | changes))
    settings = json.loads(str(golden["settings"]))
    if "decoder" in settings:
        return t5gemma_config(settings, changes)
    return (t5_config if "d_model" in settings else llama_config)(settings, changes)


def llama_config(s: dict[str, Any], changes: dict[str, Any]) -> DecoderConfig:
    fields = {
        "vocab_size": s["vocab_size"],
        "emb_dim": s["hidden_size"],
        "num_layers": s["num_hidden_layers"],
        "num_heads": s["num_attention_heads"],
        "num_kv_heads": s["num_key_value_heads"],
        "head_dim": s["head_dim"],
        "mlp_dim": s["intermediate_size"],
        "activation": ACTIVATIONS[s["hidden_act"]],
        "rope_theta": s["rope_theta"],
        "norm_epsilon": s["rms_norm_eps"],
        "tie_embeddings": s["tie_word_embeddings"],
    }
    return DecoderConfig(**(fields | changes))


def t5_config(s: dict[str, Any], changes: dict[str, Any]) -> T5Config:
    gated, _, activation = s["feed_forward_proj"].rpartition("-")
    fields = {
        "vocab_size": s["vocab_size"],
        "emb_dim": s["d_model"],
        "num_encoder_layers": s["num_layers"],
        "num_decoder_layers": s["num_decoder_layers"],
        "num_heads": s["num_heads"],
        "head_dim": s["d_kv"],
        "mlp_dim": s["d_ff"],
        # "gated-gelu" is the one name that means the approximation.
        "activation": "gelu_tanh" if s["feed_forward_proj"] == "gated-gelu" else ACTIVATIONS[activation],
        "gated_mlp": gated == "gated",
        "relative_buckets": s["relative_attention_num_buckets"],
        "relative_max_distance": s["relative_attention_max_distance"],
        "norm_epsilon": s["layer_norm_epsilon"],
        "tie_embeddings": s["tied_head"],
        "scale_decoder_outputs": s["scale"],
        "bias_per_layer": s.get("kind") == "umt5",
        "decoder_start_id": s["decoder_start_token_id"],
        "vocab_multiple": 1,
    }
    return T5Config(**(fields | changes))


def t5gemma_config(s: dict[str, Any], changes: dict[str, Any]) -> T5GemmaConfig:
    fields = {
        "vocab_size": s["vocab_size"],
        "encoder": gemma_stack(s["encoder"]),
        "decoder": gemma_stack(s["decoder"]),
        "tie_embeddings": s["tie_word_embeddings"],
        "logits_soft_cap": s["decoder"]["final_logit_softcapping"],
        "decoder_start_id": s["decoder"]["bos_token_id"],
        "vocab_multiple": 1,
    }
    return T5GemmaConfig(**(fields | changes))


def gemma_stack(s: dict[str, Any]) -> GemmaStack:
    return GemmaStack(
        emb_dim=s["hidden_size"],
        num_layers=s["num_hidden_layers"],
        num_heads=s["num_attention_heads"],
        num_kv_heads=s["num_key_value_heads"],
        head_dim=s["head_dim"],
        mlp_dim=s["intermediate_size"],
        activation=ACTIVATIONS[s["hidden_activation"]],
        rope_theta=s["rope_parameters"]["rope_theta"],
        query_pre_attn_scalar=float(s["query_pre_attn_scalar"]),
        attention_soft_cap=s["attn_logit_softcapping"],
        layer_windows=tuple(s["sliding_window"] if kind == "sliding_attention" else 0 for kind in s["layer_types"]),
        norm_epsilon=s["rms_norm_eps"],
    )
