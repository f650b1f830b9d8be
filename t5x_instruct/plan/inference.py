"""What `eval` and `infer` compile, planned: reading prompts and making tokens, and ranking options."""

import math
from collections.abc import Mapping
from typing import Any

import jax

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.decoding.batches import mesh_of
from t5x_instruct.decoding.generate import trace_generate
from t5x_instruct.decoding.sampling import GREEDY, Sampling
from t5x_instruct.decoding.scoring import trace_score_options
from t5x_instruct.models.api import Model
from t5x_instruct.models.layers.splash import Choice
from t5x_instruct.plan.collectives import Collective
from t5x_instruct.plan.compiled import Phase, Plan, Work, compile_traced, make_plan, sent_and_moved
from t5x_instruct.plan.flops import flops_of
from t5x_instruct.plan.topologies import Slices, devices_of
from t5x_instruct.runs.opening import inference_params
from t5x_instruct.runs.settings import EvaluationSettings

THROUGH_CACHE = Choice(False, "prompts and answers are read through the cache")


def plan_decoding(
    evaluation: EvaluationSettings,
    lengths: Mapping[str, int],
    model: Model,
    slices: Slices,
    sampling: Sampling = GREEDY,
) -> Plan:
    """Compiles what `eval` and `infer` run for one batch of prompts, on the mesh that they choose.

    Args:
        evaluation: prompts at a time, longest answer.
        lengths: `inputs`: tokens of a prompt.
        model: the model.
        slices: where it is to run.
        sampling: how tokens are chosen.

    Returns:
        The plan of a batch of which every answer is as long as may be, with what the prompts take and what each
        further token takes.

    Raises:
        ConfigError: the compiler is not installed.
    """
    params = inference_params(model, devices_of(slices))
    new_tokens = evaluation.max_new_tokens
    decoding = trace_generate(
        model,
        params,
        prompt_length=lengths["inputs"],
        max_new_tokens=new_tokens,
        sampling=sampling,
        batch_size=evaluation.batch_size,
    )
    mesh = mesh_of(params)
    if mesh is None:
        raise ConfigError(f"{slices.name} gives no mesh to decode on")
    compiled = compile_traced(decoding.traced)
    # A step of the loop that ends when all rows have is counted once.
    program = compiled.program(open_trips=1)
    read_only = flops_of(decoding.traced.jaxpr, open_trips=0)
    flops = {"prompts": read_only, "token": flops_of(decoding.traced.jaxpr) - read_only}
    phases = {}
    for name, times, open_loop in (("prompts", 1, False), ("token", new_tokens - 1, True)):
        collectives, traffic = sent_and_moved(program, mesh, slices, open_loop=open_loop)
        phases[name] = Phase(times, Work(flops[name], flops[name], traffic, collectives, decoding.rows))
    beams = f", {sampling.num_beams} beams" if sampling.num_beams > 1 else ""
    return make_plan(
        f"decoding of {decoding.rows} rows, prompts of {decoding.prompt_length} tokens, {new_tokens} new tokens{beams}",
        THROUGH_CACHE,
        slices,
        mesh,
        compiled,
        _together(phases, slots=decoding.rows * new_tokens),
        params=params,
        batch=decoding.arguments,
        phases=phases,
        cache_bytes=sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(decoding.cache)),
    )


def plan_scoring(
    evaluation: EvaluationSettings, lengths: Mapping[str, int], model: Model, slices: Slices, num_options: int = 4
) -> Plan:
    """Compiles what `eval` runs to rank the options of one batch of questions.

    Args:
        evaluation: questions at a time.
        lengths: `inputs`: tokens of a question; `targets`: of an option.
        model: the model.
        slices: where it is to run.
        num_options: options of a question.

    Raises:
        ConfigError: the compiler is not installed.
    """
    params = inference_params(model, devices_of(slices))
    scoring = trace_score_options(
        model,
        params,
        prompt_length=lengths["inputs"],
        num_options=num_options,
        option_length=lengths["targets"],
        batch_size=evaluation.batch_size,
    )
    mesh = mesh_of(params)
    if mesh is None:
        raise ConfigError(f"{slices.name} gives no mesh to score on")
    compiled = compile_traced(scoring.traced)
    collectives, traffic = sent_and_moved(compiled.program(), mesh, slices)
    flops = flops_of(scoring.traced.jaxpr)
    rows, length = scoring.arguments.prompts.tokens_BT.shape
    options, option_length = scoring.arguments.tokens_BOT.shape[1:]
    return make_plan(
        f"scoring of {rows} prompts of {length} tokens, {options} options of {option_length} tokens each",
        THROUGH_CACHE,
        slices,
        mesh,
        compiled,
        Work(flops, flops, traffic, collectives, rows * options * option_length),
        params=params,
        batch=scoring.arguments,
    )


def _together(phases: Mapping[str, Phase], slots: int) -> Work:
    """All phases as one."""
    collectives = [
        one._replace(times=phase.times * one.times, seconds=phase.times * one.seconds)
        for phase in phases.values()
        for one in phase.work.collectives
        if phase.times
    ]

    def total(name: str) -> Any:
        return sum(phase.times * getattr(phase.work, name) for phase in phases.values())

    return Work(total("model_flops"), total("flops"), total("hbm_traffic"), _sorted(collectives), slots)


def _sorted(collectives: list[Collective]) -> tuple[Collective, ...]:
    return tuple(sorted(collectives, key=lambda one: -one.seconds))
