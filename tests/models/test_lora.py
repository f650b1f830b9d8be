"""Adapters beside a frozen model: what they compute, what they leave alone, where they lie."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_instruct.checkpoints.adapters import Adapters, BaseReference, merged_tensors
from t5x_instruct.checkpoints.placement import LazyTensor
from t5x_instruct.common.errors import ConfigError
from t5x_instruct.common.trees import flatten_with_names, unflatten
from t5x_instruct.models.api import ADAPTERS, QUANTIZED, split_trained
from t5x_instruct.models.lora import LoraConfig, LoraModel, is_quantized, lora
from t5x_instruct.models.presets import make_model
from t5x_instruct.models.quantization import rounded_on_host
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.partitioning.rules import activation_rules, tree_shardings
from tests.models import tiny


def adapted(kind: str, /, drawn: bool = True, changes: Any = None, **options: Any) -> tuple[LoraModel, dict[str, Any]]:
    """A tiny model with adapters; `drawn`: with a B that does something."""
    model = LoraModel(make_model(tiny.config(kind, **(changes or {}))), LoraConfig(**({"rank": 3} | options)))
    params = jax.jit(model.init)(jax.random.key(0))
    if drawn:
        leaves = flatten_with_names(params[ADAPTERS])
        rng = np.random.default_rng(1)
        params[ADAPTERS] = unflatten({n: rng.normal(0, 0.1, x.shape).astype(np.float32) for n, x in leaves.items()})
    return model, params


def merged(model: LoraModel, params: dict[str, Any], base_seed: int | None = None) -> dict[str, Any]:
    """Parameters of the whole model, as a checkpoint's reader makes them.

    With the seed of `init` the base is drawn again, as it was before it was kept in few bits.
    """

    def lazy(tree: Any) -> dict[str, LazyTensor]:
        arrays = {name: np.asarray(x, np.float32) for name, x in flatten_with_names(tree).items()}
        return {name: LazyTensor(x.shape, [lambda x=x: x], stacked=False) for name, x in arrays.items()}

    trained, frozen = split_trained(params)
    if base_seed is not None:
        frozen = jax.jit(model.base.init)(jax.random.split(jax.random.key(base_seed))[0])
    adapters = Adapters(model.lora, BaseReference("base", ""), lazy(trained), model.adapted)
    return unflatten({name: tensor.read() for name, tensor in merged_tensors(lazy(frozen), adapters).items()})


def results(model: Any, params: Any, kind: str) -> tuple[jax.Array, jax.Array]:
    """Hidden states of a packed batch at once, and of five tokens through the cache."""
    batch, tokens_BT = tiny.some_batch(kind), tiny.tokens(2, 5)
    positions_BT = jnp.broadcast_to(jnp.arange(5)[None], (2, 5))

    def run(params: Any) -> tuple[jax.Array, jax.Array]:
        encoded = model.encode(params, {"encoder_input_tokens": tiny.tokens(2, 6, seed=1)}) if kind == "t5" else None
        cache = model.init_cache(2, 8, encoded, params)
        return model.hidden(params, batch), model.step(params, cache, tokens_BT, positions_BT)[0]

    return jax.jit(run)(params)


def test_fresh_adapters_change_nothing() -> None:
    model, params = adapted("decoder", drawn=False)
    got, base = results(model, params, "decoder"), results(model.base, split_trained(params)[1], "decoder")
    np.testing.assert_array_equal(got[0], base[0])
    np.testing.assert_array_equal(got[1], base[1])


@pytest.mark.parametrize(
    ("kind", "changes", "options"),
    [
        ("decoder", {}, {"alpha": 5.0, "base_dtype": "bfloat16"}),
        ("t5", {}, {"alpha": 2.0, "targets": ("v", "o", "k", "gate")}),
        ("t5", {"scan_layers": False, "gated_mlp": False}, {"alpha": 4.0}),
    ],
)
def test_adapters_are_the_merged_model(kind: str, changes: dict[str, Any], options: dict[str, Any]) -> None:
    model, params = adapted(kind, changes=changes, **options)
    got, whole = results(model, params, kind), results(model.base, merged(model, params), kind)
    np.testing.assert_allclose(got[0], whole[0], atol=2e-5)
    np.testing.assert_allclose(got[1], whole[1], atol=2e-5)
    plain = results(model.base, split_trained(params)[1], kind)
    assert all(np.abs(np.asarray(one - other)).max() > 0.1 for one, other in zip(got, plain, strict=True))


def test_what_is_kept_in_bfloat16() -> None:
    model = LoraModel(make_model(tiny.config("decoder")), LoraConfig(rank=1, base_dtype="bfloat16"))
    kept = flatten_with_names(jax.eval_shape(model.init, jax.random.key(0)))
    types = {name: leaf.dtype for name, leaf in kept.items() if not name.startswith(ADAPTERS)}
    assert {n for n, dtype in types.items() if dtype == jnp.float32} == {n for n in types if n.endswith("/scale")}


def test_dropout_is_on_the_adapters_inputs_and_follows_its_key() -> None:
    model, params = adapted("decoder", dropout=0.5)
    batch, keys = tiny.some_batch("decoder"), [jax.random.key(i) for i in (0, 0, 1)]
    run = jax.jit(lambda params, key: model.hidden(params, batch, dropout_rng=key))
    first, again, other = (run(params, key) for key in keys)
    assert (model.has_dropout, model.base.has_dropout) == (True, False)
    np.testing.assert_array_equal(first, again)
    assert np.abs(np.asarray(first - other)).max() > 0.01
    silent = {**params, ADAPTERS: jax.tree.map(jnp.zeros_like, params[ADAPTERS])}
    np.testing.assert_array_equal(run(silent, keys[0]), run(silent, keys[2]))


def test_sharded_like_their_base() -> None:
    kind = "t5"
    model, params = adapted(kind, changes={"vocab_multiple": 8}, rank=5)
    batch = tiny.some_batch(kind, rows=8)
    expected = jax.jit(lambda p: model.hidden(p, batch))(params)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, model=2))
    sharded = jax.device_put(params, tree_shardings(params, model.param_axes(), mesh))
    layer = sharded[ADAPTERS]["decoder"]["layers"]
    shapes = {
        name: layer["self_attention"][module][name].addressable_shards[0].data.shape[1:]
        for module, name in (("query", "lora_a"), ("out", "lora_b"))
    }
    assert shapes == {"lora_a": (8, 5), "lora_b": (5, 8)}
    assert layer["self_attention"]["query"]["lora_b"].addressable_shards[0].data.shape[1:] == (5, 2, 6)
    assert layer["self_attention"]["out"]["lora_a"].addressable_shards[0].data.shape[1:] == (2, 6, 5)

    def run(params: Any) -> jax.Array:
        with activation_rules(mesh):
            return model.hidden(params, batch)

    np.testing.assert_allclose(jax.jit(run)(sharded), expected, atol=1e-5)


def test_targets_go_by_logical_names() -> None:
    modules = {
        name.split("/")[0] + " " + "/".join(name.split("/")[2:])
        for name in adapted("t5", drawn=False, targets=("q", "up"), changes={"gated_mlp": False})[0].adapted
    }
    assert modules == {
        "encoder attention/query",
        "encoder mlp/wi",
        "decoder self_attention/query",
        "decoder encoder_decoder_attention/query",
        "decoder mlp/wi",
    }
    with pytest.raises(ConfigError, match="this model has no 'gate'; it has q, k, v, o, up, down"):
        adapted("t5", targets=("gate",), changes={"gated_mlp": False})


def test_all_problems_at_once() -> None:
    assert lora(rank=None) is None
    with pytest.raises(ConfigError) as caught:
        lora(rank=0, alpha=-1.0, dropout=1.0, targets=("qq",), base_dtype="int3")
    assert len(caught.value.problems) == 5
    assert "unknown target 'qq'" in str(caught.value)


@pytest.mark.parametrize(("kind", "base_dtype", "off"), [("t5", "nf4", 0.16), ("decoder", "int8", 0.005)])
def test_a_base_in_few_bits_is_merged_as_it_was_trained_on(kind: str, base_dtype: str, off: float) -> None:
    model, params = adapted(kind, base_dtype=base_dtype, targets=("q", "v"))
    got, whole = results(model, params, kind), results(model.base, merged(model, params, 0), kind)
    np.testing.assert_allclose(got[0], whole[0], atol=2e-5)
    np.testing.assert_allclose(got[1], whole[1], atol=2e-5)
    # All kernels of layers are in few bits, adapted or not; and each number is near what it stands for.
    quantized = flatten_with_names(params[QUANTIZED])
    assert {name.split("/")[-2] for name in quantized} >= {"query", "key", "out", "wi_0", "wo"}
    assert not [name for name in flatten_with_names(params["decoder"]["layers"]) if name.endswith("kernel")]
    assert jax.tree.structure(model.param_axes(), is_leaf=lambda x: isinstance(x, tuple)) == jax.tree.structure(params)
    kernel = flatten_with_names(jax.jit(model.base.init)(jax.random.split(jax.random.key(0))[0]))
    for name, array in kernel.items():
        if is_quantized(name, model.lora):
            error = np.abs(rounded_on_host(np.asarray(array), base_dtype) - array).max()
            assert error < off * np.abs(array).max() + 0.005 * np.abs(array).max()
