"""What a mesh does not divide is one error, with both numbers and the nearest that work, for all of it at once."""

import dataclasses

import jax
import pytest

from benchmarks.exactness import CONFIGS
from t5x_instruct.common.errors import ConfigError
from t5x_instruct.models.presets import make_model
from t5x_instruct.partitioning.fit import check_fit
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.training import schedules
from t5x_instruct.training.adafactor import adafactor
from t5x_instruct.training.state import abstract_state, state_shardings


def check(kind, mesh_config, *, batch_size=16, row_lengths, num_hosts=1, micro_batches=1, **changes):
    model = make_model(dataclasses.replace(CONFIGS[kind], **changes))
    abstract = jax.eval_shape(model.init, jax.random.key(0))
    mesh = make_mesh(mesh_config)
    check_fit(
        abstract,
        model.param_axes(),
        mesh,
        batch_size=batch_size,
        row_lengths=row_lengths,
        num_hosts=num_hosts,
        micro_batches=micro_batches,
    )


def test_what_divides_passes():
    check("t5", MeshConfig(fsdp=2, sequence=2, model=2), row_lengths={"inputs": 6, "targets": 4}, micro_batches=4)
    check("decoder", MeshConfig(replica=2, data=2, fsdp=2), row_lengths={"row": 5}, num_hosts=2)


def test_everything_of_an_encoder_decoder_that_does_not_divide_is_one_error():
    with pytest.raises(ConfigError) as error:
        check(
            "t5",
            MeshConfig(fsdp=4, sequence=1, model=2),
            batch_size=20,
            row_lengths={"inputs": 7},
            micro_batches=3,
            emb_dim=30,
            num_heads=3,
            mlp_dim=21,
            vocab_size=9,
            vocab_multiple=1,
        )
    batch, *parameters = error.value.problems
    assert batch.startswith("BATCH_SIZE 20 is not divisible by 12 (data-parallel devices x micro-batches = 12")
    assert batch.endswith("nearest: 12 or 24")
    said = dict(reversed(text.split(": ", 1)) for text in parameters)
    assert set(said) == {
        "axis 'embed' of size 30 is not divisible by 4 (fsdp=4); 2 would divide it, or make the axis 32",
        "axis 'heads' of size 3 is not divisible by 2 (model=2); 1 would divide it, or make the axis 4",
        "axis 'kv_heads' of size 3 is not divisible by 2 (model=2); 1 would divide it, or make the axis 4",
        "axis 'mlp' of size 21 is not divisible by 2 (model=2); 1 would divide it, or make the axis 22",
        "axis 'vocab' of size 9 is not divisible by 2 (model=2); 1 would divide it, or make the axis 10",
    }
    # Said once for all parameters with the axis: 4 of every attention, 3 of every MLP, the table and the head.
    (embed,) = [names for text, names in said.items() if "'embed'" in text]
    assert embed.endswith(" and 19 more")


def test_lengths_have_to_divide_over_the_sequence_axis():
    with pytest.raises(ConfigError) as error:
        check("t5", MeshConfig(fsdp=2, sequence=4), row_lengths={"inputs": 10, "targets": 3, "other": 8})
    assert error.value.problems == [
        "inputs 10 is not divisible by 4 (sequence=4); nearest: 8 or 12",
        "targets 3 is not divisible by 4 (sequence=4); nearest: 4",
    ]


@pytest.mark.parametrize(("heads", "kv_heads", "named"), [(8, 2, "kv_heads"), (6, 6, "heads")])
def test_heads_of_a_decoder(heads, kv_heads, named):
    with pytest.raises(ConfigError, match=f"'{named}' of size {kv_heads} is not divisible by 4 .*; 2 would divide it"):
        check("decoder", MeshConfig(fsdp=2, model=4), row_lengths={}, num_heads=heads, num_kv_heads=kv_heads)


def test_the_state_says_the_same_of_factored_statistics_once():
    model = make_model(dataclasses.replace(CONFIGS["t5"], emb_dim=30))
    optimizer = adafactor(schedules.constant(1.0), min_dim_size_to_factor=8).for_axes(model.param_axes())
    with pytest.raises(ConfigError) as error:
        state_shardings(
            abstract_state(model.init, optimizer), model.param_axes(), optimizer, make_mesh(MeshConfig(fsdp=8))
        )
    assert len(error.value.problems) == 1
