"""Hugging Face folders made from the golden files, which hold tensors and logits of transformers' own models."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from tests.parity.goldens import Golden, load, tensors

LLAMA = ("llama_one_kv_head", "llama_tied", "llama_untied")
BYT5 = "t5_byt5"
T5 = ("t5_1_0", "t5_1_1", BYT5, "t5_mt5", "t5_tied_gated", "t5_umt5", "t5_umt5_tied")
T5GEMMA = ("t5gemma_tied", "t5gemma_untied")
T5GEMMA2 = ("t5gemma2_tied", "t5gemma2_untied")
SPECIAL = ["<pad>", "</s>", "<s>"]
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['role'] }} {{ m['content'] }}{{ eos_token }}{% endfor %}"
FLOAT_TYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def settings_of(case: str) -> dict[str, Any]:
    """`config.json` of a golden model, as transformers writes it."""
    settings = json.loads(str(load(case)["config" if case in T5GEMMA2 else "settings"]))
    if case in T5GEMMA2:
        return settings
    if case in LLAMA:
        theta = settings.pop("rope_theta")
        more = {
            "rope_parameters": {"rope_type": "default", "rope_theta": theta},
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "eos_token_id": 1,
        }
        return settings | {"model_type": "llama", "max_position_embeddings": 8192, "mlp_bias": False} | more
    if case in T5GEMMA:
        return settings | {"model_type": "t5gemma", "is_encoder_decoder": True, "architectures": ["Any"]}
    del settings["tied_head"]
    own = {"model_type": settings.pop("kind", "t5"), "tie_word_embeddings": settings.pop("scale")}
    return settings | own | {"is_encoder_decoder": True}


def write_folder(folder: Path, case: str, kind: str = "F32", **changes: Any) -> Golden:
    """Writes a folder with a golden model; returns the golden file's content. `changes` are of `config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    golden = load(case)
    held = {name: array.astype(FLOAT_TYPES[kind]) for name, array in tensors(golden, "tensor").items()}
    save_file(held, folder / "model.safetensors")
    settings = {k: v for k, v in (settings_of(case) | changes).items() if v != "absent"}
    (folder / "config.json").write_text(json.dumps(settings))
    if case == BYT5:
        content = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": settings["vocab_size"] - 259}
        (folder / "tokenizer_config.json").write_text(json.dumps(content))
    else:
        write_tokenizer(folder)
    return golden


def write_tokenizer(folder: Path, words_to: int = 37, **changes: Any) -> None:
    """The special tokens and words (by default 40 ids in all), with a chat template."""
    words = {token: i for i, token in enumerate([*SPECIAL, *(f"w{i}" for i in range(words_to))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"eos_token": "</s>", "bos_token": "<s>", "pad_token": "<pad>", "chat_template": TEMPLATE}
    content = {"tokenizer_class": "PreTrainedTokenizerFast", **names, **changes}
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
