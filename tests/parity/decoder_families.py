"""What a golden file of a decoder family says, and what we make of the same model."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from t5x_instruct.checkpoints.convert.hf_names import params_from_hf
from t5x_instruct.common.trees import flatten_with_names
from t5x_instruct.losses.cross_entropy import cross_entropy
from t5x_instruct.models.decoder import DecoderConfig, DecoderModel
from tests.checkpoints.tiny_hf import write_tokenizer
from tests.parity import goldens
from tests.parity.goldens import Golden, tensors


def config_of(golden: Golden, **changes: Any) -> DecoderConfig:
    """Our configuration, from `config.json` as transformers writes it."""
    config = goldens.config_of(golden, **({"attention_chunk": 128} | changes))
    assert isinstance(config, DecoderConfig)
    return config


def rows_of(golden: Golden) -> dict[str, np.ndarray]:
    """Each example in a row of its own, with padding, and all of them in a last row without any."""
    lengths, total = golden["lengths"], int(golden["lengths"].sum())
    count = len(lengths)
    names = ("decoder_input_tokens", "decoder_segment_ids", "decoder_positions", "targets", "weights")
    rows = {name: np.zeros((count + 1, total), np.float32 if name == "weights" else np.int32) for name in names}
    start = 0
    for i, n in enumerate(lengths):
        for row, at, segment in ((i, 0, 1), (count, start, i + 1)):
            here = (row, slice(at, at + n))
            rows["decoder_input_tokens"][here] = golden["tokens"][i, :n]
            rows["decoder_segment_ids"][here] = segment
            rows["decoder_positions"][here] = np.arange(n)
        rows["targets"][count, start : start + n] = golden["targets"][i, :n]
        rows["weights"][count, start : start + n] = golden["weights"][i, :n]
        start += n
    return rows


def measure(golden: Golden) -> dict[str, float]:
    """The fields of an `Outcome`; the loss and its gradient are those of the packed row."""
    model = DecoderModel(config_of(golden))
    params = params_from_hf(tensors(golden, "tensor"), model.config)
    rows, lengths = rows_of(golden), golden["lengths"]

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        hidden = model.hidden(params, rows)
        head = model.unembedding(params)
        summed = cross_entropy(hidden, head, rows["targets"], rows["weights"]).loss_sum
        return summed, model.logits(params, hidden)

    differentiate = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, logits), gradient = differentiate(params)
    starts = np.cumsum([0, *lengths[:-1]])
    expected = [golden["logits"][i, :n] for i, n in enumerate(lengths)]
    alone = [logits[i, :n] for i, n in enumerate(lengths)]
    packed = [logits[-1, start : start + n] for start, n in zip(starts, lengths, strict=True)]
    theirs = flatten_with_names(params_from_hf(tensors(golden, "grad"), model.config))
    ours = flatten_with_names(gradient)
    assert set(ours) == set(theirs)
    clear, wrong = _greedy(model, params, golden)
    return {
        "logits": max(float(np.abs(a - b).max()) for a, b in zip(alone, expected, strict=True)),
        "packed": max(float(np.abs(a - b).max()) for a, b in zip(packed, expected, strict=True)),
        "loss": abs(float(value) / float(golden["loss"]) - 1.0),
        "gradient": max(float(np.linalg.norm(ours[k] - g) / np.linalg.norm(g)) for k, g in theirs.items()),
        "clear": clear,
        "wrong": wrong,
    }


def _greedy(model: DecoderModel, params: Any, golden: Golden) -> tuple[float, int]:
    """Greedy tokens with a cache, one slot at a time, prompts padded on the left."""
    prompts, expected = golden["prompt_lengths"], golden["generated"]
    longest, steps = int(prompts.max()), expected.shape[1]
    tokens = np.zeros((len(prompts), longest + steps), np.int32)
    positions = np.arange(longest + steps)[None] - (longest - prompts)[:, None]
    for row, n in enumerate(prompts):
        # The next token is transformers', so that one tie does not end the comparison.
        tokens[row, longest - n :] = [*golden["tokens"][row, :n], *expected[row]]

    @jax.jit
    def step(cache: Any, tokens_BT: jax.Array, positions_BT: jax.Array) -> tuple[jax.Array, Any]:
        hidden, cache = model.step(params, cache, tokens_BT, positions_BT)
        return model.logits(params, hidden)[:, 0].argmax(axis=-1), cache

    cache = model.init_cache(len(prompts), longest + steps)
    best = []
    for i in range(longest + steps - 1):
        chosen, cache = step(cache, tokens[:, i : i + 1], np.maximum(positions[:, i : i + 1], -1).astype(np.int32))
        best.append(chosen)
    clear = golden["margins"] > 1e-3
    generated = np.stack(best[longest - 1 :], axis=1)
    return float(clear.mean()), int((generated[clear] != expected[clear]).sum())


def write_folder(folder: Path, golden: Golden) -> None:
    """The golden model as a Hugging Face folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors(golden, "tensor"), folder / "model.safetensors")
    (folder / "config.json").write_text(str(golden["config"]))
    write_tokenizer(folder)


def logits_of_export(model: Any, golden: Golden) -> np.ndarray:
    """What a model of transformers makes of the golden file's tokens; 0 where there is padding."""
    import torch

    real = np.arange(golden["tokens"].shape[1]) < golden["lengths"][:, None]
    with torch.no_grad():
        tokens, mask = torch.tensor(golden["tokens"]).long(), torch.tensor(real).long()
        logits: np.ndarray = model(tokens, attention_mask=mask, use_cache=False).logits.numpy()
    return np.where(real[..., None], logits, 0.0)
