"""The Splash kernel, interpreted: what plain attention gives, forwards and backwards; and when it is chosen."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_instruct.models.layers.attention import Tokens, attend
from t5x_instruct.models.layers.splash import choose, splash_attend
from t5x_instruct.models.presets import make_model
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.partitioning.rules import activation_rules
from tests.models import tiny

B, T, N, K, H = 2, 256, 4, 2, 16


def packed_tokens() -> Tokens:
    """Two rows: three segments and padding; one segment that fills the row."""
    lengths = [[90, 50, 80], [T]]
    segments, positions = np.zeros((B, T), np.int32), np.zeros((B, T), np.int32)
    for row, sizes in enumerate(lengths):
        start = 0
        for number, size in enumerate(sizes, 1):
            segments[row, start : start + size] = number
            positions[row, start : start + size] = np.arange(size)
            start += size
    return Tokens(jnp.asarray(segments), jnp.asarray(positions))


def result_and_gradient(function: Any, q: Any, k: Any, v: Any, weights: Any) -> list[np.ndarray]:
    def loss(q: Any, k: Any, v: Any) -> Any:
        out = function(q, k, v)
        return (out * weights).sum(), out

    return jax.tree.leaves(jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v))


# On one device, over rows and heads, and with parts of the rows on every device.
@pytest.mark.parametrize("mesh", [None, MeshConfig(fsdp=2, model=2, data=2), MeshConfig(fsdp=2, model=2, sequence=2)])
def test_the_kernel_gives_what_plain_attention_gives(mesh: MeshConfig | None) -> None:
    rng = np.random.default_rng(0)
    q, k, v, weights = (jnp.asarray(rng.normal(size=(B * 2, T, n, H)), jnp.float32) for n in (N, K, K, N))
    where = jax.tree.map(lambda x: jnp.concatenate([x, x]), packed_tokens())
    expected = result_and_gradient(lambda *qkv: attend(*qkv, where, where, T), q, k, v, weights)

    def by_kernel(*qkv: Any) -> Any:
        if mesh is None:
            return splash_attend(*qkv, where.segments)
        with activation_rules(make_mesh(mesh)):
            return splash_attend(*qkv, where.segments)

    for got, wanted in zip(result_and_gradient(by_kernel, q, k, v, weights), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=3e-5)
    assert (expected[-1][0, 220:] == 0).all()


def test_windows_and_soft_caps() -> None:
    rng = np.random.default_rng(1)
    q, k, v = (rng.normal(size=(B, T, n, H)).astype(np.float32) for n in (N, K, K))
    where = packed_tokens()
    got = splash_attend(jnp.asarray(q), jnp.asarray(k), jnp.asarray(v), where.segments, behind=20, soft_cap=2.0)
    for b, t, n in [(0, 0, 0), (0, 100, 1), (0, 200, 3), (1, 15, 2), (1, 255, 0)]:
        segments = np.asarray(where.segments)[b]
        slots = [s for s in range(max(0, t - 20), t + 1) if segments[s] == segments[t]]
        scores = 2.0 * np.tanh(k[b, slots, n // 2] @ q[b, t, n] / 2.0)
        weights = np.exp(scores - scores.max())
        np.testing.assert_allclose(got[b, t, n], weights / weights.sum() @ v[b, slots, n // 2], atol=1e-5)


def model_run(setting: str, remat: str = "none") -> Any:
    model = make_model(tiny.config(attention=setting, remat=remat))
    where = packed_tokens()
    batch = {
        "decoder_input_tokens": tiny.tokens(B, T),
        "decoder_segment_ids": where.segments,
        "decoder_positions": where.positions,
    }
    params = jax.eval_shape(model.init, jax.random.key(0))
    trained = (where.segments > 0).astype(jnp.float32)[:, :, None]
    return model, params, jax.grad(lambda params: (jnp.sin(model.hidden(params, batch)) * trained).sum())


def test_a_model_has_the_same_gradient_by_either() -> None:
    model, _, plain = model_run("plain")
    params = jax.jit(model.init)(jax.random.key(0))
    _, _, splash = model_run("splash", remat="minimal")
    for got, wanted in zip(*(jax.tree.leaves(jax.jit(one)(params)) for one in (splash, plain)), strict=True):
        assert np.linalg.norm(got - wanted) <= 1e-4 * max(np.linalg.norm(wanted), 1e-3)


choose_for = partial(choose, length=512, num_heads=8, num_kv_heads=4)


def test_the_choice_and_its_reason() -> None:
    mesh = make_mesh(MeshConfig(fsdp=2, model=4))
    assert str(choose_for("auto", mesh)) == "plain attention: the devices are no TPUs (cpu)"
    assert str(choose_for("plain", mesh)) == "plain attention: as configured"
    assert str(choose_for("splash", mesh)) == "splash attention: as configured; interpreted, which is slow"
    assert "500 slots a row are no multiple of 128" in choose_for("splash", mesh, length=500).why
    assert "8 heads with 2 key heads are not divisible by model=4" in choose_for("splash", mesh, num_kv_heads=2).why
    long = make_mesh(MeshConfig(fsdp=1, sequence=8))
    assert "no multiple of 128 x sequence=8" in choose_for("splash", long).why
    assert choose_for("splash", long, length=1024).splash
    assert choose_for("splash", mesh, obstacle="prefix") == (False, "prefix")


def test_models_state_their_choice() -> None:
    mesh = make_mesh(MeshConfig())
    assert make_model(tiny.config(attention="splash")).attention_choice(T, mesh).splash
    prefix = make_model(tiny.config("prefix", attention="splash")).attention_choice(T, mesh)
    assert not prefix.splash
    assert "prefix_lm" in prefix.why
