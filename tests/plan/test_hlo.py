"""The compiler's program is read as it runs: loops, fusions, groups, bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from t5x_instruct.common.errors import DataError
from t5x_instruct.plan.collectives import Collective, collectives_of, seconds_together
from t5x_instruct.plan.hlo import Program, replica_groups
from t5x_instruct.plan.topologies import CHIPS, devices_of, parse_slices

# Programs for devices that are not there are compiled anew: they cannot be read back from the tests' cache.
pytestmark = pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")

LAYERS, WIDTH, ROWS = 5, 512, 1024


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("x(), replica_groups={{0,2},{1,3}}, use", [[0, 2], [1, 3]]),
        ("x(), replica_groups=[2,2]<=[4], use", [[0, 1], [2, 3]]),
        ("x(), replica_groups=[2,2]<=[2,2]T(1,0), use", [[0, 2], [1, 3]]),
        ("x(), replica_groups=[4,2]<=[2,2,2]T(2,0,1), use", [[0, 2], [4, 6], [1, 3], [5, 7]]),
        ("x(), replica_groups=mesh['a'=2,'b'=3] {'b'}, use", [[0, 1, 2], [3, 4, 5]]),
        ("x(), replica_groups=mesh['a'=2,'b'=3] {'a'}, use", [[0, 3], [1, 4], [2, 5]]),
        ("x(), source_target_pairs={{0,1},{1,0}}, use", [[0, 1], [1, 0]]),
    ],
)
def test_groups(text, groups):
    assert replica_groups(text) == groups


def test_groups_of_another_form_and_a_text_that_is_no_program():
    with pytest.raises(DataError, match="groups of a collective cannot be read"):
        replica_groups("x(), replica_groups=somehow")
    with pytest.raises(DataError, match="no entry computation"):
        Program("nothing")


LOOP = """
%body (p: (u32[], f32[8])) -> (u32[], f32[8]) {{
  %p = (u32[], f32[8]) parameter(0)
  %step = u32[] constant({step})
  %i = u32[] get-tuple-element(%p), index=0
  %x = f32[8] get-tuple-element(%p), index=1
  %more = u32[] {grow}(%i, %step)
  %next = u32[] copy(%more)
  ROOT %result = (u32[], f32[8]) tuple(%next, %x)
}}

%condition (q: (u32[], f32[8])) -> pred[] {{
  %q = (u32[], f32[8]) parameter(0)
  %limit = u32[] constant(9)
  %j = u32[] get-tuple-element(%q), index=0
  ROOT %less = pred[] compare(%j, %limit), direction=LT
}}

ENTRY %main (a: (u32[], f32[8])) -> (u32[], f32[8]) {{
  %a = (u32[], f32[8]) parameter(0)
  ROOT %loop = (u32[], f32[8]) while(%a), condition=%condition, body=%body
}}
"""


KERNEL = """
ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8] parameter(0)
  %kernel = f32[8] custom-call(%p), custom_call_target="tpu_custom_call", backend_config={"custom_call_config": {
"xprof_metadata":"{\\"block_q\\": 512}"
}}, metadata={op_name="attention/kernel"}
  ROOT %more = f32[8] add(%kernel, %kernel)
}
"""


def test_a_kernel_s_configuration_on_lines_of_its_own_ends_nothing():
    """As the attention kernels' are."""
    (entry,) = Program(KERNEL).computations.values()
    assert (list(entry.instructions), entry.root) == (["p", "kernel", "more"], "more")
    assert entry.instructions["kernel"].text.endswith('metadata={op_name="attention/kernel"}')


@pytest.mark.parametrize(
    ("grow", "step", "times"), [("add", 1, 9), ("add", 2, 5), ("add", 3, 3), ("multiply", 2, None)]
)
def test_a_loop_runs_as_often_as_its_counter_takes_to_its_limit(grow, step, times):
    program = Program(LOOP.format(grow=grow, step=step))
    loop = program.computations["main"].instructions["loop"]
    assert program.trip_count(loop) == times


@pytest.fixture(scope="module")
def devices():
    return devices_of(parse_slices("v5e-8"))


def compiled(devices, *, scanned, dtype=jnp.float32):
    """Layers whose products are summed over four devices, scanned or one by one."""
    mesh = Mesh(np.asarray(devices).reshape(2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

    def put(*spec):
        return NamedSharding(mesh, PartitionSpec(*spec))

    def layer(x, weights):
        up, down = weights
        x = x + jax.lax.with_sharding_constraint(jnp.tanh(x @ up) @ down, put("data", None))
        return x, None

    def apply(x, up, down):
        if scanned:
            return jax.lax.scan(layer, x, (up, down))[0]
        for i in range(LAYERS):
            x, _ = layer(x, (up[i], down[i]))
        return x

    arguments = [
        jax.ShapeDtypeStruct((ROWS, WIDTH), dtype, sharding=put("data", None)),
        jax.ShapeDtypeStruct((LAYERS, WIDTH, 4 * WIDTH), dtype, sharding=put(None, None, "model")),
        jax.ShapeDtypeStruct((LAYERS, 4 * WIDTH, WIDTH), dtype, sharding=put(None, "model", None)),
    ]
    return jax.jit(apply, out_shardings=put("data", None)).lower(*arguments).compile()


@pytest.mark.parametrize("scanned", [True, False])
def test_collectives_count_once_a_layer(devices, scanned):
    found = collectives_of(Program(compiled(devices, scanned=scanned).as_text()), devices, CHIPS["v5e"])
    # Every layer adds up its result over the four devices of the model axis: by an all-reduce, or by its two halves.
    added = [one for one in found if one.kind in ("all-reduce", "reduce-scatter")]
    assert sum(one.times for one in added) == LAYERS
    assert {(one.ways, one.size, one.network) for one in added} == {(4, ROWS // 2 * WIDTH * 4, "ici")}
    assert all(one.seconds > 0 for one in found)


def test_traffic_of_scanned_layers_is_that_of_unrolled_ones(devices):
    totals = []
    for scanned in (True, False):
        totals.append(Program(compiled(devices, scanned=scanned).as_text()).hbm_traffic())
    weights = LAYERS * 2 * WIDTH * 4 * WIDTH * 4 // 4
    assert all(total >= weights for total in totals)  # every weight is read once at least
    assert totals[0] == pytest.approx(totals[1], rel=0.35)


def test_what_goes_between_slices_is_told_apart(devices):
    del devices
    two = devices_of(parse_slices("v5e-4", 2))
    mesh = Mesh(np.asarray(two).reshape(2, 4), ("replica", "data"), axis_types=(AxisType.Auto,) * 2)
    sharded = NamedSharding(mesh, PartitionSpec("replica", None))
    whole = NamedSharding(mesh, PartitionSpec())
    x = jax.ShapeDtypeStruct((2, 1 << 20), jnp.float32, sharding=sharded)
    text = jax.jit(lambda x: x.sum(0), out_shardings=whole).lower(x).compile().as_text()
    (only,) = collectives_of(Program(text), two, CHIPS["v5e"])
    assert only[:5] == ("all-reduce", 1, 4 << 20, 2, "dcn")
    assert only.seconds == pytest.approx((4 << 20) / CHIPS["v5e"].dcn_bandwidth)


def test_permutes_in_both_directions_share_no_wire():
    def permute(upward, seconds):
        return Collective("collective-permute", 1, 8, 2, "ici", seconds, "here", upward)

    reduced = Collective("all-reduce", 1, 8, 2, "ici", 5.0, "here")
    assert seconds_together([permute(True, 2.0), permute(True, 1.0), permute(False, 2.5), reduced]) == 8.0


def test_of_a_conditional_the_branch_that_moves_most_counts(devices):
    del devices
    four = devices_of(parse_slices("v5e-4"))
    mesh = Mesh(np.asarray(four), ("model",), axis_types=(AxisType.Auto,))
    whole, sharded = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((), (None, "model")))

    def dear(x, w):
        return jnp.tanh(x @ w[0]) @ w[1]

    def cheap(x, w):
        return x @ w[2]

    def none(x, w):
        return x

    x = jax.ShapeDtypeStruct((ROWS, 4 * WIDTH), jnp.float32, sharding=sharded)
    w = jax.ShapeDtypeStruct((3, 4 * WIDTH, 4 * WIDTH), jnp.float32, sharding=sharded)
    which = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)

    def counted(branches):
        def step(which, x, w):
            return jax.lax.switch(which, branches, x, w) if len(branches) > 1 else branches[0](x, w)

        text = jax.jit(step, out_shardings=sharded).lower(which, x, w).compile().as_text()
        assert (" conditional(" in text) == (len(branches) > 1)
        program = Program(text)
        found = collectives_of(program, four, CHIPS["v5e"])
        return program.hbm_traffic(), sum(one.total_bytes for one in found)

    alone, less = counted((dear,)), counted((cheap,))
    assert alone[1] == 2 * less[1] > 0
    for branches in ((none, dear, cheap), (cheap, none, dear)):
        moved, sent = counted(branches)
        assert sent == alone[1]
        # What lies on the chip between two products differs a little; all branches together would be more.
        assert less[0] < moved < alone[0] + less[0]
