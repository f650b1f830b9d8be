"""Plans of what `eval` and `infer` run: prompts and tokens apart, and the functions that they call."""

import importlib

import jax
import numpy as np
import pytest

from t5x_instruct.decoding.generate import trace_generate
from t5x_instruct.plan.inference import plan_decoding, plan_scoring
from t5x_instruct.plan.report import as_json, as_text
from t5x_instruct.plan.roofline import estimate, step_seconds
from t5x_instruct.plan.topologies import parse_slices
from t5x_instruct.runs.opening import inference_params, planned_model
from t5x_instruct.runs.settings import EvaluationSettings
from tests.models.tiny import model_and_params
from tests.plan.small_runs import small_run

# Programs for devices that are not there are compiled anew: they cannot be read back from the tests' cache.
pytestmark = pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")

# The package gives the function of this name.
generation = importlib.import_module("t5x_instruct.decoding.generate")
ROWS, PROMPT, NEW = 8, 64, 9
LENGTHS = {"inputs": PROMPT, "targets": 8}
SETTINGS = EvaluationSettings(batch_size=ROWS, max_new_tokens=NEW)


@pytest.fixture(scope="module")
def model():
    return planned_model(small_run("decoder").model)


@pytest.fixture(scope="module")
def decoding(model):
    return plan_decoding(SETTINGS, LENGTHS, model, parse_slices("v5e-4"))


def weights_in_layers(config):
    heads = config.head_dim * (2 * config.num_heads + 2 * config.num_kv_heads)
    return config.num_layers * config.emb_dim * (heads + 3 * config.mlp_dim)


def test_prompts_and_tokens_are_told_apart(decoding, model):
    config, token, prompts = model.config, decoding.phases["token"], decoding.phases["prompts"]
    assert (prompts.times, token.times) == (1, NEW - 1)
    # A token of a row meets every weight once, the head's too, and the cache's keys and values.
    attention = 2 * config.num_layers * config.num_heads * config.head_dim * (PROMPT + NEW)
    assert token.work.flops == 2 * ROWS * (weights_in_layers(config) + config.emb_dim * config.vocab_rows + attention)
    assert prompts.work.flops > (PROMPT - 1) * 2 * ROWS * weights_in_layers(config)
    assert decoding.work.flops == prompts.work.flops + (NEW - 1) * token.work.flops
    cache = 2 * config.num_layers * ROWS * (PROMPT + NEW) * config.num_kv_heads * config.head_dim * 2
    assert cache < decoding.cache_bytes < 1.1 * cache + 1024
    assert decoding.fits
    assert decoding.memory.optimizer == 0
    # Sharded parameters are gathered again for every token.
    gathered = sum(one.total_bytes for one in token.work.collectives if one.kind == "all-gather")
    assert gathered > 2 * weights_in_layers(config)


def test_the_report_has_the_time_of_a_token(decoding):
    values, text = as_json(decoding), as_text(decoding)
    assert values["attention"] == "plain"
    assert "plain attention: prompts and answers are read through the cache" in text
    seconds = estimate(decoding.phases["token"].work, decoding.slices).step_seconds
    assert values["phases"]["token"]["seconds"] == seconds > 0
    assert values["step_seconds"] == step_seconds(decoding)
    assert values["step_seconds"] == pytest.approx(values["phases"]["prompts"]["seconds"] + (NEW - 1) * seconds)
    assert f"{ROWS / seconds:,.0f} new tokens/s" in text
    assert f"decoding of {ROWS} rows, prompts of {PROMPT} tokens, {NEW} new tokens" in text


def test_ranking_options(model):
    plan = plan_scoring(SETTINGS, LENGTHS, model, parse_slices("v5e-1"), num_options=3)
    assert plan.fits
    assert f"scoring of {ROWS} prompts of {PROMPT} tokens, 4 options of 8 tokens each" in as_text(plan)
    # The prompt is read once, every option (their number rounded up) is read behind it.
    assert plan.work.flops > 2 * ROWS * (PROMPT + 4 * 7) * weights_in_layers(model.config)
    assert plan.work.flops < 2 * ROWS * 2 * PROMPT * weights_in_layers(model.config)
    assert not plan.work.collectives


class Traced(Exception):
    """Carries what `generate` was about to run."""


@pytest.mark.parametrize("kind", ["decoder", "t5"])
def test_it_is_the_program_that_generates(kind, monkeypatch):
    """What `generate` runs for a full batch is, operation by operation, what is planned."""
    model, params = model_and_params(kind)
    decode = generation._decode

    def caught(*arguments):
        raise Traced(decode.trace(*arguments))

    prompts = [np.full(5, 7, np.int32)] * 4
    monkeypatch.setattr(generation, "_decode", caught)
    with pytest.raises(Traced) as raised:
        generation.generate(model, params, prompts, max_new_tokens=3, eos_id=1, pad_id=0, batch_size=4)
    monkeypatch.undo()
    (runs,) = raised.value.args
    shapes = jax.eval_shape(lambda: params)
    planned = trace_generate(model, shapes, prompt_length=5, max_new_tokens=3, batch_size=4)
    assert (planned.rows, planned.prompt_length) == (4, 16)
    assert str(planned.traced.jaxpr) == str(runs.jaxpr)


def test_parameters_lie_as_they_do_when_a_model_is_opened(model):
    leaves = jax.tree.leaves(inference_params(model))
    assert {leaf.sharding.mesh.shape["fsdp"] for leaf in leaves} == {8}
