"""What a golden file of an encoder-decoder says, and what we make of the same model."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from t5x_instruct.checkpoints.convert.hf_names import params_from_hf
from t5x_instruct.common.trees import flatten_with_names
from t5x_instruct.losses.cross_entropy import cross_entropy
from t5x_instruct.models.api import Model
from t5x_instruct.models.presets import make_model
from tests.checkpoints import tiny_hf
from tests.parity.goldens import Golden, config_of, tensors


def batch_of(golden: Golden) -> dict[str, np.ndarray]:
    """The file's inputs with their padding, and its targets after the start token."""
    inputs, targets = golden["inputs"], golden["targets"]
    start = np.full((len(targets), 1), config_of(golden).decoder_start_id, np.int32)
    return {
        "encoder_input_tokens": inputs,
        "encoder_segment_ids": (np.arange(inputs.shape[1]) < golden["input_lengths"][:, None]).astype(np.int32),
        "decoder_input_tokens": np.concatenate([start, targets[:, :-1]], axis=1),
    }


def packed(golden: Golden) -> dict[str, np.ndarray]:
    """All rows of the batch in one row, without the encoder's padding."""
    rows = batch_of(golden)
    lengths = golden["input_lengths"]
    targets = rows["decoder_input_tokens"]
    real = rows.pop("encoder_segment_ids") > 0
    rows["encoder_input_tokens"] = rows["encoder_input_tokens"][real][None]
    rows["decoder_input_tokens"] = targets.reshape(1, -1)
    for side, sizes in (("encoder", lengths), ("decoder", np.full(len(targets), targets.shape[1]))):
        rows[f"{side}_segment_ids"] = np.repeat(np.arange(1, len(sizes) + 1), sizes)[None].astype(np.int32)
        rows[f"{side}_positions"] = np.concatenate([np.arange(n) for n in sizes])[None].astype(np.int32)
    return rows


def measure(golden: Golden) -> dict[str, float]:
    """The fields of an `Outcome`; the loss and its gradient are those of rows with padding."""
    model = make_model(config_of(golden))
    params = params_from_hf(tensors(golden, "tensor"), model.config)

    def loss(params: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
        hidden = model.hidden(params, batch)
        summed = cross_entropy(hidden, model.unembedding(params), golden["targets"], golden["weights"]).loss_sum
        return summed, model.logits(params, hidden)

    def together(params: Any, batch: Any) -> jax.Array:
        return model.logits(params, model.hidden(params, batch)).reshape(golden["logits"].shape)

    (value, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, batch_of(golden))
    theirs = flatten_with_names(params_from_hf(tensors(golden, "grad"), model.config))
    ours = flatten_with_names(gradient)
    assert set(ours) == set(theirs)
    best = _greedy(model, params, golden)
    clear = golden["margins"] > 1e-3
    return {
        "logits": float(np.abs(logits - golden["logits"]).max()),
        "packed": float(np.abs(jax.jit(together)(params, packed(golden)) - golden["logits"]).max()),
        "loss": abs(float(value) / float(golden["loss"]) - 1.0),
        "gradient": max(float(np.linalg.norm(ours[k] - g) / np.linalg.norm(g)) for k, g in theirs.items()),
        "clear": float(clear.mean()),
        "wrong": int((best[clear] != golden["generated"][clear]).sum()),
    }


def _greedy(model: Model, params: Any, golden: Golden) -> np.ndarray:
    """Greedy tokens with a cache; what is fed is transformers', so that one tie does not end the comparison."""
    expected = golden["generated"]
    rows, steps = expected.shape
    encoded = model.encode(params, batch_of(golden))
    cache = model.init_cache(rows, steps, encoded=encoded, params=params)
    fed = np.concatenate([np.full((rows, 1), model.config.decoder_start_id, np.int32), expected[:, :-1]], axis=1)

    @jax.jit
    def step(cache: Any, tokens_BT: jax.Array, positions_BT: jax.Array) -> tuple[jax.Array, Any]:
        hidden, cache = model.step(params, cache, tokens_BT, positions_BT)
        return model.logits(params, hidden)[:, 0].argmax(axis=-1), cache

    best = []
    for i in range(steps):
        chosen, cache = step(cache, fed[:, i : i + 1], np.full((rows, 1), i, np.int32))
        best.append(chosen)
    return np.stack(best, axis=1)


def write_folder(folder: Path, _: Golden, *, case: str) -> None:
    """The golden model as a Hugging Face folder."""
    tiny_hf.write_folder(folder, case)


def logits_of_export(model: Any, golden: Golden) -> np.ndarray:
    """What a model of transformers makes of the golden file's inputs and targets."""
    import torch

    batch = batch_of(golden)
    if model.config.model_type == "umt5":
        # Version 5 scales every umT5's output, whatever its file says; T5X and version 4 only that of a tied head.
        model.config.tie_word_embeddings = json.loads(str(golden["settings"]))["scale"]
    with torch.no_grad():
        logits: np.ndarray = model(
            input_ids=torch.tensor(batch["encoder_input_tokens"]).long(),
            attention_mask=torch.tensor(batch["encoder_segment_ids"]).long(),
            decoder_input_ids=torch.tensor(batch["decoder_input_tokens"]).long(),
            use_cache=False,
        ).logits.numpy()
    return logits
