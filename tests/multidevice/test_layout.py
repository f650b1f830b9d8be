"""What the compiled train step holds on each device, and what it sends."""

import math
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.exactness import INPUTS_LENGTH, ROWS, TARGETS_LENGTH, mesh_of, tiny_model

from .compiled import DATA_FSDP_MODEL, DEFAULT, FSDP, FSDP_MODEL, REPLICA_DATA, trained

SIDES = (INPUTS_LENGTH, TARGETS_LENGTH, INPUTS_LENGTH + TARGETS_LENGTH)
# Sizes of a dimension that holds the rows of the whole batch, alone or merged with the length.
WHOLE_BATCH = {ROWS} | {ROWS * length for length in SIDES}
AVERAGES = {
    "decoder": ("opt_state/mu/", "opt_state/nu/", "ema/"),
    "t5": ("opt_state/ema/", "opt_state/statistics/"),
}
COLLECTIVE = re.compile(
    r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute|ragged-all-to-all)(?:-start)?\("
)


def shapes_in(text):
    """The dimensions of every array a compiled program names; of a sharded program, each device's part."""
    found = re.findall(r"\b(?:pred|[a-z]+\d+)\[([\d,]*)\]", text)
    return {tuple(int(size) for size in dims.split(",") if size) for dims in found}


def collectives(text):
    """Kind of each collective -> the sizes of the arrays it gives."""
    found = {}
    for line in text.splitlines():
        if match := COLLECTIVE.search(line):
            found.setdefault(match[2], set()).update(map(math.prod, shapes_in(match[1])))
    return found


def rows_of(case):
    """Rows of a batch on one device."""
    return ROWS // math.prod(mesh_of(case.mesh).shape[axis] for axis in ("replica", "data", "fsdp"))


def names_of(case):
    return f"{case.kind} {'x'.join(map(str, mesh_of(case.mesh).devices.shape))}"


def parts_of(name, mesh):
    """Into how many parts an array of the state has to be cut: from its name, not from the table of rules."""
    fsdp, model = mesh.shape["fsdp"], mesh.shape["model"]
    last = name.split("/")[-1]
    by_name = {"scale": 1, "rel_embedding": model, "row": fsdp, "column": model}
    return by_name.get(last, fsdp * model)


@pytest.mark.parametrize("case", DEFAULT, ids=names_of)
def test_parameters_moments_and_averages_are_cut_as_the_axes_say(case):
    training = trained(case)
    (state_in, batch_in), _ = training.step.input_shardings
    state_out, _ = training.step.output_shardings
    leaves = jax.tree_util.tree_leaves_with_path(training.abstract)
    held = set()
    for (path, leaf), before, after in zip(leaves, jax.tree.leaves(state_in), jax.tree.leaves(state_out), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for sharding in (before, after):
            cut = leaf.size // math.prod(sharding.shard_shape(leaf.shape))
            assert cut == (parts_of(name, training.mesh) if leaf.ndim else 1), name
        held.add("/".join(part for part in name.split("/") if not part.isdigit()).partition("token_embedder")[0])
    averages = {
        "decoder": {"opt_state/mu/", "opt_state/nu/", "ema/"},
        "t5": {"opt_state/ema/", "opt_state/statistics/"},
    }
    assert held >= {"params/"} | averages[case.kind]
    assert {sharding.shard_shape((ROWS, 1))[0] for sharding in jax.tree.leaves(batch_in)} == {rows_of(case)}


@pytest.mark.parametrize("case", [FSDP, FSDP_MODEL, DATA_FSDP_MODEL], ids=names_of)
def test_no_device_ever_holds_the_whole_batch_of_anything(case):
    assert not [shape for shape in shapes_in(trained(case).step.as_text()) if WHOLE_BATCH & set(shape)]


def test_an_activation_that_is_replicated_would_be_seen():
    mesh = mesh_of(FSDP.mesh)

    def product(x):
        return jax.lax.with_sharding_constraint(jnp.sin(x), NamedSharding(mesh, PartitionSpec())) + 1

    rows = NamedSharding(mesh, PartitionSpec("fsdp"))
    compiled = jax.jit(product, in_shardings=rows, out_shardings=rows).lower(jnp.zeros((ROWS, 5))).compile()
    assert WHOLE_BATCH & {size for shape in shapes_in(compiled.as_text()) for size in shape}
    assert collectives(compiled.as_text())["all-gather"] == {ROWS * 5}


def layer_sizes(case):
    """Elements of the matrices of one layer, and of the tables, as each device of the model axis has them."""
    abstract = jax.eval_shape(tiny_model(case.kind).init, jax.random.key(0))
    sizes = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract):
        name = jax.tree_util.keystr(path)
        if "kernel" in name or "'embedding'" in name:
            sizes.add(
                math.prod(leaf.shape[1:] if "layers" in name else leaf.shape) // mesh_of(case.mesh).shape["model"]
            )
    return sizes


@pytest.mark.parametrize("case", [FSDP, FSDP_MODEL, DATA_FSDP_MODEL], ids=names_of)
def test_fsdp_gathers_parameters_a_layer_at_a_time_and_nothing_else(case):
    sent = collectives(trained(case).step.as_text())
    assert sent["all-gather"] == layer_sizes(case)
    assert set(sent) <= {"all-gather", "all-reduce", "reduce-scatter"}


@pytest.mark.parametrize("case", [REPLICA_DATA, FSDP], ids=names_of)
def test_without_a_model_axis_only_gradients_and_sums_are_added_up(case):
    sent = collectives(trained(case).step.as_text())
    sums = sent["all-reduce"] | sent.get("reduce-scatter", set())
    sizes, fsdp = layer_sizes(case), mesh_of(case.mesh).shape["fsdp"]
    # Over the other axes only a device's own part is added up.
    parts = sizes | {size // fsdp for size in sizes}
    assert sizes <= sums or {size // fsdp for size in sizes} <= sums
    # Norm scales, factored statistics, biases by distance and metrics; any activation of a device is larger.
    length = TARGETS_LENGTH if case.kind == "t5" else INPUTS_LENGTH + TARGETS_LENGTH
    assert max(sums - parts) < rows_of(case) // case.micro_batches * length * tiny_model(case.kind).config.emb_dim
    if case is REPLICA_DATA:
        assert set(sent) == {"all-reduce"}
