"""Searching: what is tried, what is dropped unseen, what comes out, and that `train` takes it."""

import dataclasses
import json

import jax
import pytest

from t5x_instruct.cli.main import main
from t5x_instruct.common.errors import ConfigError
from t5x_instruct.config.validate import resolve
from t5x_instruct.models.layers.remat import REMAT_POLICIES
from t5x_instruct.models.lora import LoraConfig
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.plan import search as searching
from t5x_instruct.plan.candidates import Candidate, Guess, Guesser
from t5x_instruct.plan.prices import price_an_hour, read_prices
from t5x_instruct.plan.search import Trial, search
from t5x_instruct.plan.topologies import parse_slices
from t5x_instruct.runs.opening import planned_model
from t5x_instruct.runs.training_run import abstract_batch, run_parts
from t5x_instruct.training.loop import configured_step
from t5x_instruct.training.step import compile_step
from tests.plan.small_runs import mesh_plan, small_run

# Programs for devices that are not there are compiled anew: they cannot be read back from the tests' cache.
pytestmark = pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")

EIGHT = parse_slices("v5e-8")


@pytest.fixture(scope="module")
def run():
    return small_run("decoder")


@pytest.fixture(scope="module")
def guesses(run):
    return Guesser(run).guesses(EIGHT)


def test_every_choice_is_a_candidate(run, guesses):
    tried = {(dict(g.candidate.mesh).get("fsdp"), dict(g.candidate.mesh).get("model", 1)) for g in guesses}
    assert {(8, 1), (4, 2), (2, 4), (1, 8), (1, 1)} <= tried
    assert {g.candidate.remat for g in guesses} == set(REMAT_POLICIES)
    assert {g.candidate.row_factor for g in guesses} == {1, 2, 4, 8}
    assert {g.candidate.micro_batches for g in guesses} == {1, 2, 4, 8, 16}
    for guess in guesses:
        applied = guess.candidate.applied(run)
        tokens = applied.data.batch_size * sum(applied.data.task_feature_lengths.values())
        assert tokens == 16 * 64
        ways = 8 // applied.mesh.get("model", 1)
        assert applied.data.batch_size % (ways * applied.loop.micro_batches) == 0
    assert [g.seconds for g in guesses] == sorted(g.seconds for g in guesses)


def test_rows_that_are_not_packed_keep_their_length(run):
    data = dataclasses.replace(run.data, packing=False)
    found = Guesser(dataclasses.replace(run, data=data)).guesses(parse_slices("v5e-1"))
    assert {g.candidate.row_factor for g in found} == {1}


def test_memory_is_guessed_from_below(guesses):
    """What is dropped unseen must not have fitted: the guess is no more than what the compiler needs."""
    by_candidate = {g.candidate: g for g in guesses}
    for mesh in ({"fsdp": 8}, {"fsdp": 4, "model": 2}):
        guess = by_candidate[Candidate(EIGHT, tuple(mesh.items()), "none", 1, 1)]
        memory = mesh_plan("decoder", mesh).memory
        assert memory.params + memory.optimizer < guess.hbm_bytes < memory.total
    full, none = (by_candidate[Candidate(EIGHT, (("fsdp", 8),), remat, 1, 1)] for remat in ("full", "none"))
    assert full.hbm_bytes < none.hbm_bytes
    pieces = by_candidate[Candidate(EIGHT, (("fsdp", 8),), "none", 2, 1)]
    assert pieces.hbm_bytes < none.hbm_bytes
    assert pieces.seconds > none.seconds


def guess(seconds, remat="none", micro=1, fsdp=8):
    return Guess(Candidate(EIGHT, (("fsdp", fsdp),), remat, micro, 1), 0, seconds)


def test_the_queue_drops_what_cannot_be_better():
    queue = searching._Queue(
        [guess(1.0), guess(1.1, micro=2), guess(1.2, "full"), guess(1.3, fsdp=4), guess(9, fsdp=2)]
    )
    first = queue.next()
    assert first == guess(1.0)
    queue.learn(first, Trial(first.candidate, None, None, None))  # does not fit: smaller pieces may
    second = queue.next()
    assert second == guess(1.1, micro=2)
    queue.learn(second, Trial(second.candidate, None, 2.2, None))  # its mesh takes twice as long as guessed
    assert queue.next() == guess(1.3, fsdp=4)
    assert queue.next() == guess(1.2, "full")
    assert queue.next() is None  # the last one is hopeless

    queue = searching._Queue([guess(1.0, "full", micro=4), guess(1.1, micro=2), guess(1.2, micro=8)])
    first = queue.next()
    queue.learn(first, Trial(first.candidate, None, None, None))
    assert queue.next() == guess(1.2, micro=8)  # keeping all in larger pieces cannot fit either


def test_prices(tmp_path):
    file = tmp_path / "prices.csv"
    file.write_text("# by the hour\nv5e, 1.5 # spot\n\nv5p,4\n")
    prices = read_prices(file)
    assert prices == {"v5e": 1.5, "v5p": 4.0}
    assert price_an_hour(parse_slices("v5p-16", 2), prices) == 2 * 8 * 4.0
    with pytest.raises(ConfigError, match="none for v6e, only for v5e, v5p"):
        price_an_hour(parse_slices("v6e-8"), prices)
    file.write_text("v5f, 1\nv5e\nv4, -2\nv5p, 1\nv5p, 2\n")
    with pytest.raises(ConfigError) as raised:
        read_prices(file)
    assert [one.split(":")[1] for one in raised.value.problems] == ["1", "2", "3", "5"]
    with pytest.raises(ConfigError, match="cannot read prices"):
        read_prices(tmp_path / "none.csv")
    assert set(read_prices("gin_configs/launch/prices_example.csv")) == {"v4", "v5e", "v5p", "v6e", "tpu7x"}


def test_usage():
    words = ["plan", "--topology=v5e-1", "--gin_file=recipes/tiny.gin"]
    assert main([*words, "--prices=x"]) == 2
    assert main([*words, "--topology=v5e-4"]) == 2
    assert main([*words, "--search", "--step=decode"]) == 2


def test_a_run_that_nothing_divides(run):
    odd = dataclasses.replace(run, data=dataclasses.replace(run.data, batch_size=3))
    with pytest.raises(ConfigError, match="no mesh of v5e:4x4 divides this run: BATCH_SIZE 3"):
        search(odd, [parse_slices("v5e-16")])


def test_a_run_that_trains_adapters(run):
    adapted = dataclasses.replace(run, model=dataclasses.replace(run.model, lora=LoraConfig(rank=2, alpha=4.0)))
    with pytest.raises(ConfigError, match="with LORA_RANK plan each choice"):
        search(adapted, [parse_slices("v5e-16")])


def test_the_best_is_a_file_that_train_takes(tmp_path, capsys):
    """Searched for eight chips that are not there, then traced for the eight devices of these tests."""
    prices, output = tmp_path / "prices.csv", tmp_path / "best.gin"
    prices.write_text("v5e, 1.2\n")
    words = ["plan", "--search", "--most=1", "--topology=v5e-8", "--topology=v5e-1", "--gin_file=recipes/tiny.gin"]
    words += ["--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 32}", "--gin.DTYPE=bfloat16", "--json"]
    assert main([*words, f"--prices={prices}", f"--output={output}"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert "1/2  v5e:2x4" in printed.err
    assert "min left" in printed.err
    assert len(found["trials"]) == 2
    best = found["best"]
    assert best == min(found["trials"], key=lambda one: one["price_of_step"])
    chips = best["devices"]
    assert best["price_of_step"] == pytest.approx(chips * 1.2 * best["step_seconds"] / 3600)
    assert best["price_of_run"] == pytest.approx(100 * best["price_of_step"])

    text = output.read_text()
    assert "MODEL_DIR =" not in text
    with pytest.raises(ConfigError, match="MODEL_DIR is REQUIRED"):
        resolve([output], verb="train")
    config = resolve([output], [f"MODEL_DIR={tmp_path / 'run'}"], verb="train")
    run = config.instantiate("TrainRun")
    settings = best["settings"]
    assert run.mesh == settings["MESH"]
    assert run.data.batch_size == settings["BATCH_SIZE"]
    assert run.data.task_feature_lengths == settings["TASK_FEATURE_LENGTHS"]
    assert (run.model.remat, run.loop.micro_batches) == (settings["REMAT"], settings["LoopConfig.micro_batches"])
    mesh = make_mesh(MeshConfig(**run.mesh), jax.devices()[:chips])
    model = planned_model(run.model)
    parts = run_parts(run, model, mesh)
    step = configured_step(model, parts.loss_fn, parts.optimizer, run.loop, num_tasks=4)
    traced = compile_step(step, parts.shardings, mesh, donate=True).trace(
        parts.state, abstract_batch(run.data, model, mesh)
    )
    assert jax.tree.structure(traced.out_info[0]) == jax.tree.structure(parts.state)


@pytest.mark.slow
def test_train_runs_what_was_found(tmp_path, prepared_root, capsys):
    output = tmp_path / "best.gin"
    words = ["plan", "--search", "--most=2", "--topology=v5e-8", "--gin_file=recipes/tiny.gin", f"--output={output}"]
    assert main(words) == 0
    assert "micro-batches" in capsys.readouterr().out
    words = [f"--gin_file={output}", f"--gin.MODEL_DIR={tmp_path / 'run'}", f"--gin.PREPARED_DIR={prepared_root}"]
    words += ["--gin.TRAIN_STEPS=2", "--gin.WARMUP_STEPS=1", "--gin.EVAL_EXAMPLES=1", "--gin.DTYPE=float32"]
    assert main(["train", "--dry_run", *words]) == 0
    assert main(["train", *words]) == 0
    assert (tmp_path / "run" / "report.json").exists()
