"""A run that goes on with T5X's Adafactor, and one that T5X goes on with."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_instruct.checkpoints.convert.t5x_slots import read_statistics
from t5x_instruct.checkpoints.manager import Checkpoints
from t5x_instruct.checkpoints.restore import save_run_identity
from t5x_instruct.cli.main import main
from t5x_instruct.common.errors import CheckpointError, ConfigError
from t5x_instruct.common.trees import flatten_with_names
from t5x_instruct.data.vocabularies import ByteVocabulary
from t5x_instruct.models.presets import make_model
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.runs.opening import open_model
from t5x_instruct.runs.optimizer_state import initial_optimizer_state
from t5x_instruct.runs.settings import DataSettings, ModelSettings
from t5x_instruct.runs.training_run import TrainRun, run_parts
from t5x_instruct.training.adafactor import AdafactorState, Factored, adafactor, scale_by_adafactor
from t5x_instruct.training.loop import LoopConfig
from t5x_instruct.training.optimizers import adamw
from t5x_instruct.training.schedules import constant
from t5x_instruct.training.state import abstract_state
from tests.checkpoints import tiny_hf, tiny_t5x
from tests.parity.goldens import load, tensors
from tests.runs.test_opening import T5_CONFIG

STEP = 1_138_000
FACTORED_FROM = 4  # of the golden models' axes only the heads, three, are smaller
EMBED = {"query": 0, "key": 0, "value": 0, "out": -1, "wi": 0, "wi_0": 0, "wi_1": 0, "wo": -1}


def squares(layout: str) -> dict[str, np.ndarray]:
    """Averaged squares of gradients of a golden model's parameters as T5X has these."""
    held = tiny_t5x.layer_by_layer(tensors(load("t5_1_1"), "tensor"))
    if layout == "scanned":
        held = tiny_t5x.scanned(held, num_heads=3)
    draw = np.random.default_rng(0)
    return {name: draw.uniform(0.1, 2.0, array.shape).astype(np.float32) for name, array in held.items()}


def slots_of(name: str, square: np.ndarray) -> dict[str, np.ndarray]:
    """What T5X keeps of the squares: by its rules for stacked layers, else by the sizes of a matrix' axes."""
    unused = {slot: np.zeros(1, np.float32) for slot in ("v_row", "v_col", "v", "m")}
    module = name.split("/")[-2]
    if re.match("(encoder|decoder)/(encoder|decoder)/", name):
        if module not in EMBED:
            return unused | {"v": square}
        embed = EMBED[module] % square.ndim
        columns = tuple(axis for axis in range(square.ndim) if axis not in (embed, 1))
        return unused | {"v_row": square.mean(columns), "v_col": square.mean(embed)}
    if square.ndim < 2 or min(square.shape) < FACTORED_FROM:
        return unused | {"v": square}
    smaller, larger = np.argsort(square.shape)
    return unused | {"v_row": square.mean(larger), "v_col": square.mean(smaller)}


def written(root, layout):
    """A checkpoint whose parameters are the squares themselves, beside its slots."""
    held = squares(layout)
    arrays = {f"target/{name}": array for name, array in held.items()}
    slots = {
        f"state/param_states/{name}/{slot}": array
        for name, square in held.items()
        for slot, array in slots_of(name, square).items()
    }
    tiny_t5x.write(root / "checkpoint", arrays | slots, inline=set(slots), step=STEP)
    tiny_hf.write_tokenizer(root)
    return root


def run_of(folder, optimizer):
    model = ModelSettings(str(folder / "checkpoint"), vocabulary=str(folder))
    data = DataSettings("any", {"inputs": 8, "targets": 8}, 4)
    return TrainRun("none", model, data, optimizer, LoopConfig(1), initial_optimizer_state=True)


def started(run, opened):
    """What puts the state in, and the shapes and shardings that it has to have."""
    parts = run_parts(run, opened.model, make_mesh(MeshConfig(data=4, fsdp=2), jax.devices()))
    return initial_optimizer_state(run, opened, parts), parts


def empty(parts):
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), parts.state)


def opened_at(folder):
    return open_model(ModelSettings(str(folder / "checkpoint"), vocabulary=str(folder)))


@pytest.mark.parametrize("layout", ["layer by layer", "scanned"])
def test_slots_become_the_means_of_rows_and_columns(tmp_path, layout):
    run = run_of(written(tmp_path, layout), adafactor(constant(1e-3), min_dim_size_to_factor=FACTORED_FROM))
    opened = opened_at(tmp_path)
    put, parts = started(run, opened)
    new = put(empty(parts))
    assert jax.tree.structure(new) == jax.tree.structure(parts.state)
    lies = jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), new.opt_state, parts.shardings.opt_state)
    assert all(jax.tree.leaves(lies))
    assert int(new.opt_state.updates) == STEP
    axes = flatten_with_names(opened.model.param_axes())
    found = flatten_with_names(jax.device_get(new.opt_state.statistics))
    assert found.keys() == opened.source.tensors.keys()
    assert sum(isinstance(statistic, Factored) for statistic in found.values()) > 12
    for name, statistic in found.items():
        square, names = opened.source.tensors[name].read(), axes[name]
        if not isinstance(statistic, Factored):
            np.testing.assert_array_equal(statistic, square)
            continue
        rows = tuple(dim for dim, axis in enumerate(names) if axis == "embed")
        columns = tuple(dim for dim, axis in enumerate(names) if axis not in ("embed", "layers"))
        np.testing.assert_allclose(statistic.row, square.mean(columns), rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(statistic.column, square.mean(rows), rtol=1e-5, err_msg=name)


def test_the_next_update_is_that_of_the_paper_whichever_axis_t5x_called_its_rows():
    square = np.random.default_rng(1).uniform(0.1, 2.0, (9, 5))  # [vocab, embed]: T5X's rows are embed, by size
    slots = slots_of("token_embedder/embedding", square)
    transform = scale_by_adafactor(
        {"x": ("vocab", "embed")},
        clipping_threshold=None,
        multiply_by_parameter_scale=False,
        min_dim_size_to_factor=FACTORED_FROM,
    )
    ours = Factored(*(jnp.asarray(slots[slot], jnp.float32) for slot in ("v_row", "v_col")))
    gradient = {"x": jnp.ones((9, 5))}
    direction, _ = transform.update(gradient, AdafactorState(jnp.int32(STEP), {"x": ours}), gradient)
    decay = 1 - float(STEP + 1) ** -0.8
    r, c = (decay * slots[slot] + (1 - decay) for slot in ("v_col", "v_row"))  # of vocab and of embed
    np.testing.assert_allclose(direction["x"], 1 / np.sqrt(np.outer(r, c) / r.mean()), rtol=1e-4)


def test_what_does_not_map_is_said(tmp_path):
    run = run_of(written(tmp_path, "layer by layer"), adafactor(constant(1e-3)))
    opened = opened_at(tmp_path)
    with pytest.raises(CheckpointError, match="optimizer slots do not map") as caught:
        started(run, opened)  # nothing here has 128 rows
    shown = r"token_embedder/embedding \(\d+, 18\): ours is \(\d+, 18\), T5X has v \(1,\), v_row \(18,\)"
    assert re.search(shown, str(caught.value))
    for optimizer, message in (
        (adamw(constant(1e-3)), "T5X's slots are Adafactor's; set TrainRun.optimizer = @adafactor()"),
        (adafactor(constant(1e-3), b1=0.9), "adafactor.b1 averages updates, of which T5X's have the learning rate"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            started(dataclasses.replace(run, optimizer=optimizer), opened)
    grown = dataclasses.replace(run, model=dataclasses.replace(run.model, new_tokens=("<x>",)))
    with pytest.raises(ConfigError, match="LORA_RANK and NEW_TOKENS train other parameters"):
        started(grown, opened)
    with pytest.raises(ConfigError, match="random has no optimizer state that can be read"):
        started(run, opened._replace(source=None, description="random"))
    assert started(dataclasses.replace(run, initial_optimizer_state=False), opened)[0] is None


def test_a_checkpoint_without_slots_or_with_first_moments(tmp_path):
    held = squares("layer by layer")
    arrays = {f"target/{name}": array for name, array in held.items()}
    tiny_t5x.write(tmp_path / "none", arrays, step=STEP)
    with pytest.raises(CheckpointError, match="has no optimizer slots"):
        read_statistics(tmp_path / "none", {})
    name = "encoder/encoder_norm/scale"
    slots = {f"state/param_states/{name}/{slot}": held[name] for slot in ("v", "m")}
    tiny_t5x.write(tmp_path / "m", arrays | slots, inline=set(slots), step=STEP)
    with pytest.raises(CheckpointError, match="encoder_norm/scale: slot m; first moments do not map"):
        read_statistics(tmp_path / "m", {})


LARGE = dataclasses.replace(T5_CONFIG, emb_dim=130, num_heads=2, head_dim=65, mlp_dim=128, num_decoder_layers=2)
DEFAULT = adafactor(constant(1e-3))


def trained(folder, optimizer):
    """A run's folder after three updates; gives the state, of numbers that all differ."""
    model = make_model(LARGE)
    like = abstract_state(model.init, optimizer.for_axes(model.param_axes()))
    draw = np.random.default_rng(0)

    def filled(x):
        return jnp.asarray(draw.uniform(0.1, 2.0, x.shape) if x.shape else 3, x.dtype)

    state = jax.tree.map(filled, like)
    save_run_identity(folder, LARGE, ByteVocabulary(), "plain")
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(2, state, {})
    return state


def test_a_run_s_statistics_are_written_as_slots_and_come_back(tmp_path, capsys):
    state = trained(tmp_path / "run", DEFAULT)
    out = tmp_path / "t5x" / "checkpoint"
    convert = ["convert", f"--from={tmp_path / 'run'}", "--optimizer_state"]
    assert main([*convert, f"--to=t5x:{out}"]) == 0
    stored, _ = tiny_t5x.read(out)
    assert int(stored["state/step"]) == 3
    statistics = flatten_with_names(state.opt_state.statistics)

    def slot(name, kind):
        return stored[f"state/param_states/decoder/{name}/{kind}"]

    # [embed 130, mlp 128]: T5X's rows are the smaller axis. [heads x kv 130, embed 130]: the first.
    wi, attention = (statistics[f"decoder/layers/{name}/kernel"] for name in ("mlp/wi", "self_attention/out"))
    np.testing.assert_array_equal(slot("layers_1/mlp/wi/kernel", "v_row"), wi.column[1])
    np.testing.assert_array_equal(slot("layers_1/mlp/wi/kernel", "v_col"), wi.row[1])
    np.testing.assert_array_equal(slot("layers_0/self_attention/out/kernel", "v_row"), attention.column[0].ravel())
    np.testing.assert_array_equal(slot("layers_0/self_attention/out/kernel", "v_col"), attention.row[0])
    scale = "pre_mlp_layer_norm/scale"
    np.testing.assert_array_equal(slot(f"layers_1/{scale}", "v"), statistics[f"decoder/layers/{scale}"][1])
    unused = [(f"layers_1/{scale}", "m"), (f"layers_1/{scale}", "v_row"), ("layers_1/mlp/wi/kernel", "v")]
    assert [slot(*one).tolist() for one in unused] == [[0.0]] * 3

    ByteVocabulary().save(tmp_path / "t5x")
    put, parts = started(run_of(tmp_path / "t5x", DEFAULT), opened_at(tmp_path / "t5x"))
    again = put(empty(parts)).opt_state
    assert int(again.updates) == 3
    jax.tree.map(np.testing.assert_array_equal, again.statistics, state.opt_state.statistics)

    capsys.readouterr()
    assert main([*convert, f"--to={tmp_path / 'hf'}"]) == 2
    assert "only T5X's layout has it" in capsys.readouterr().err
    assert main(["convert", f"--from={out}", "--optimizer_state", f"--to=t5x:{tmp_path / 'again'}"]) == 1
    assert "has no optimizer state of a whole model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (adafactor(constant(1e-3), min_dim_size_to_factor=131), "wi/kernel .*: T5X wants .*/row and .*/column"),
        (adafactor(constant(1e-3), b1=0.9), "first moments do not map"),
        (adamw(constant(1e-3)), "was not trained with adafactor"),
    ],
)
def test_statistics_that_t5x_has_not_are_refused(tmp_path, capsys, optimizer, message):
    trained(tmp_path / "run", optimizer)
    command = ["convert", f"--from={tmp_path / 'run'}", f"--to=t5x:{tmp_path / 'out'}", "--optimizer_state"]
    assert main(command) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
