from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import tiny

LENGTHS = (9, 4, 7)
TOKENS = tiny.tokens(len(LENGTHS), max(LENGTHS) + 3)


def reference(model: Any, params: Any) -> list[np.ndarray]:
    """Each row's prompt and 3 more tokens without a cache; what follows them is not seen."""
    hidden = np.asarray(jax.jit(model.hidden)(params, {"decoder_input_tokens": TOKENS}))
    return [hidden[row, : n + 3] for row, n in enumerate(LENGTHS)]


@pytest.mark.parametrize(
    ("changes", "pieces"),
    [({}, (9,)), (tiny.PATTERN, (2, 6, 1)), ({"scan_layers": False, "num_kv_heads": 1, "layer_windows": (3, 0)}, (9,))],
)
def test_left_padded_prefill_and_decode(changes: dict[str, Any], pieces: tuple[int, ...]) -> None:
    model, params = tiny.model_and_params(**changes)
    expected = reference(model, params)
    longest = max(LENGTHS)
    positions = np.arange(longest)[None] - (longest - np.array(LENGTHS))[:, None]
    # The tokens under padding are garbage on purpose.
    prompts = tiny.tokens(len(LENGTHS), longest, seed=5)
    for row, n in enumerate(LENGTHS):
        prompts[row, longest - n :] = TOKENS[row, :n]
    step = jax.jit(model.step)
    cache = model.init_cache(len(LENGTHS), longest + 5)
    start, outputs = 0, []
    for size in pieces:
        here = slice(start, start + size)
        hidden, cache = step(params, cache, prompts[:, here], np.maximum(positions[:, here], -1).astype(np.int32))
        outputs.append(np.asarray(hidden))
        start += size
    for i in range(3):
        where = np.array(LENGTHS)[:, None] + i
        hidden, cache = step(params, cache, np.take_along_axis(TOKENS, where, 1), where)
        outputs.append(np.asarray(hidden))
    assert int(cache["index"]) == longest + 3
    outputs = np.concatenate(outputs, axis=1)
    assert np.isfinite(outputs).all()
    for row, n in enumerate(LENGTHS):
        np.testing.assert_allclose(outputs[row, longest - n :], expected[row], atol=1e-5)


def test_cache_shapes_and_dtype() -> None:
    model, _ = tiny.model_and_params(dtype="bfloat16")
    cache = model.init_cache(3, 11)
    assert cache["key"].shape == cache["value"].shape == (2, 3, 11, 2, 6)
    assert cache["key"].dtype == jnp.bfloat16
    assert cache["positions"].shape == (3, 11)
    assert (cache["positions"] == -1).all()
    assert cache["index"].shape == ()


def test_step_keeps_the_cache_tree() -> None:
    model, params = tiny.model_and_params()
    cache = model.init_cache(2, 6)
    positions = np.tile(np.arange(3), (2, 1))
    _, after = jax.eval_shape(model.step, params, cache, TOKENS[:2, :3], positions)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), cache)
    assert model.encode(params, {}) is None


def test_more_tokens_than_slots() -> None:
    model, params = tiny.model_and_params()
    with pytest.raises(ValueError, match="5 tokens does not fit a cache of 4"):
        model.step(params, model.init_cache(1, 4), TOKENS[:1, :5], np.arange(5)[None])
