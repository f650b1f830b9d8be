"""The Flan 2022 collection: the mixture `flan2022` of five parts, with the weights that were published.

    part      share  cap      data
    flan2021  0.40    30,000  `tasks.flan2021` and two tasks more (TensorFlow Datasets)
    t0        0.32    20,000  P3 (`tasks.flan2022.p3`): needs tasks.flan2022.P3_INDEX
    niv2      0.20     5,000  Natural Instructions (`tasks.niv2`): needs tasks.niv2.FOLDER
    cot       0.05   100,000  chain of thought (`tasks.cot`): needs tasks.cot.FOLDER
    dialog    0.03   200,000  WikiDialog and QReCC (`tasks.flan2022.dialog`; TensorFlow Datasets, or files)

Each part is a mixture too, `flan2022_{part}`. It has equal shares of its forms (`renderings.FORMS`: zero-shot and
few-shot, with options and without; niv2, cot and dialog have no form without), `flan2022_{part}_{form}`; in a form each
task counts in proportion to its examples, up to the cap. cot and dialog also have inverted tasks, at 0.3 of the rate.

A part whose data is not configured is left out and told (`REPORT`); what is there keeps its proportions, so that the
shares of the rest grow. `tasks.flan2022.PARTS` names the parts that are wanted, such as 'flan2021,cot'.

Two other weightings were published: `flan2022_paper` (Scaling Instruction-Finetuned Language Models: Muffin 46, T0-SF
28, NIv2 24.2, CoT 1.8; Muffin is FLAN 2021 with dialogues and code, of which FLAN 2021 alone stands here) and
`flan2022_4_3_1_1_1` (a table in FLAN's code, in the order above). Program synthesis was never released.

Source: Longpre et al. 2023, The Flan Collection; github.com/google-research/FLAN, flan/v2. Of the sets of FLAN 2021 the
first 30,000 training rows are read, where the collection reads all and samples them like 30,000.
"""

import importlib
import logging
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

from t5x_instruct.common.errors import ConfigError, unknown
from t5x_instruct.data.few_shot import BUDGET
from t5x_instruct.data.task_modules import given_option, module_option
from t5x_instruct.data.tasks import Rate, add_mixture, proportional
from tasks.flan2022 import dialog, natural_instructions, p3
from tasks.flan2022.renderings import FORMS, FORMS_WITH_OPTIONS, INVERTED_SHARE, add_forms, add_submixture


def _option(name: str, default: str | None = None) -> str | None:
    return module_option(f"tasks.flan2022.{name}", os.environ.get(f"T5X_INSTRUCT_FLAN2022_{name}", default))


PARTS = _option("PARTS")
"""The parts that are wanted, parted by commas; without it all five."""

EXEMPLAR_BUDGET = _option("BUDGET", str(BUDGET))
"""Tokens of inputs up to which solved examples are kept before a question (flan2021, t0, dialog)."""

P3_INDEX = _option("P3_INDEX")
"""The file that lists the sets of P3, see `p3`."""

P3_FOLDER = _option("P3_FOLDER")
"""Where the sets of P3 lie, instead of on the hub."""

WIKI_DIALOG = _option("WIKI_DIALOG")
"""Files of WikiDialog, instead of TensorFlow Datasets, see `dialog`."""

QRECC = _option("QRECC")
"""The file of QReCC, instead of TensorFlow Datasets, see `dialog`."""

CAPS: Mapping[str, int] = {"flan2021": 30_000, "t0": 20_000, "niv2": 5_000, "cot": 100_000, "dialog": 200_000}
"""Examples beyond this number do not give a task more weight."""

WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "flan2022": {"flan2021": 0.40, "t0": 0.32, "niv2": 0.20, "cot": 0.05, "dialog": 0.03},
    "flan2022_paper": {"flan2021": 0.46, "t0": 0.28, "niv2": 0.242, "cot": 0.018},
    "flan2022_4_3_1_1_1": {"flan2021": 4, "t0": 3, "niv2": 1, "cot": 1, "dialog": 1},
}
"""The mixtures, and the share of each part in them."""

_NEEDS = {
    "t0": ("tasks.flan2022.P3_INDEX", "T5X_INSTRUCT_FLAN2022_P3_INDEX"),
    "niv2": ("tasks.niv2.FOLDER", "T5X_INSTRUCT_NIV2_FOLDER"),
    "cot": ("tasks.cot.FOLDER", "T5X_INSTRUCT_COT_FOLDER"),
}

Forms = dict[str, list[str | tuple[str, Rate]]]


class Registered(NamedTuple):
    """What was registered.

    Attributes:
        shares: for each mixture the share of each part that is there; they add up to 1.
        left_out: the parts that are not there, each with what it needs.
    """

    shares: Mapping[str, Mapping[str, float]]
    left_out: Mapping[str, str]


# Each part in two steps, so that what is wrong with one is told before anything of another is registered: a function
# that opens what it needs, which gives a function that registers its tasks and gives their names by form.


def _flan2021(budget: int) -> Callable[[], Forms]:
    registry = importlib.import_module("tasks.flan2021.registry")
    importlib.import_module("tasks.flan2021")
    more = importlib.import_module("tasks.flan2022.more_tasks")
    return lambda: _all_forms([*registry.registered_tasks(), *more.TASKS], budget)


def _t0(budget: int) -> Callable[[], Forms]:
    listed = p3.read_index(str(P3_INDEX))
    return lambda: _all_forms(p3.register(listed, P3_FOLDER), budget)


def _niv2(budget: int) -> Callable[[], Forms]:
    del budget  # its examples are few and part of a row
    natural_instructions.check(importlib.import_module("tasks.niv2"))
    return lambda: {form: [*names] for form, names in natural_instructions.register().items()}


def _cot(budget: int) -> Callable[[], Forms]:
    del budget  # `tasks.cot` registers its forms itself
    names = [f"cot_{name}" for name in importlib.import_module("tasks.cot").files()]
    return lambda: _with_inverted(names, CAPS["cot"])


def _dialog(budget: int) -> Callable[[], Forms]:
    sources = dialog.sources(WIKI_DIALOG, QRECC)
    return lambda: _with_inverted(dialog.register(sources, budget), CAPS["dialog"])


_OPEN: Mapping[str, Callable[[int], Callable[[], Forms]]] = {
    "flan2021": _flan2021,
    "t0": _t0,
    "niv2": _niv2,
    "cot": _cot,
    "dialog": _dialog,
}


def _all_forms(names: list[str], budget: int) -> Forms:
    for name in names:
        add_forms(name, budget)
    return {form: [f"{name}_{form}" for name in names] for form in FORMS}


def _with_inverted(names: list[str], cap: int) -> Forms:
    rate = proportional(cap=cap, scale=INVERTED_SHARE)
    return {
        form: [*(f"{name}_{form}" for name in names), *((f"{name}_ii_{form}", rate) for name in names)]
        for form in FORMS_WITH_OPTIONS
    }


def _budget() -> int:
    value = str(EXEMPLAR_BUDGET)
    if not (value.isascii() and value.isdigit() and int(value)):
        raise ConfigError(f"tasks.flan2022.BUDGET is {value!r}; it must be a whole number of tokens, at least 1")
    return int(value)


def _wanted() -> list[str]:
    if PARTS is None:
        return list(CAPS)
    names = [name.strip() for name in str(PARTS).split(",") if name.strip()]
    problems = [f"tasks.flan2022.PARTS: {unknown('part', name, CAPS)}" for name in names if name not in CAPS]
    if not names:
        problems = [f"tasks.flan2022.PARTS is {PARTS!r}; name parts, parted by commas: {', '.join(CAPS)}"]
    if problems:
        raise ConfigError(problems)
    return [name for name in CAPS if name in names]


def _register_as_set() -> Registered:
    """Registers the parts that are wanted and configured, and the mixtures of them."""
    wanted = _wanted()
    left_out = {name: "tasks.flan2022.PARTS does not name it" for name in CAPS if name not in wanted}
    for name, (option, variable) in _NEEDS.items():
        if name in wanted and not (given_option(option) or os.environ.get(variable)):
            left_out[name] = f"set the module option {option} or the environment variable {variable}"
    there = [name for name in wanted if name not in left_out]
    if not there:
        missing = "; ".join(f"{name}: {left_out[name]}" for name in wanted)
        raise ConfigError(f"tasks.flan2022: none of the parts {', '.join(wanted)} is configured: {missing}")
    budget = _budget()
    opened = {name: _OPEN[name](budget) for name in there}
    for name, register in opened.items():
        add_submixture(f"flan2022_{name}", register(), proportional(cap=CAPS[name]))
    shares = {}
    for mixture, weights in WEIGHTS.items():
        parts = {name: weights[name] for name in there if name in weights}
        if parts:
            add_mixture(mixture, [(f"flan2022_{name}", weight) for name, weight in parts.items()])
            shares[mixture] = {name: weight / sum(parts.values()) for name, weight in parts.items()}
    for name, needs in left_out.items():
        logging.warning("flan2022: the part %s is left out (%s)", name, needs)
    if left_out:
        told = ", ".join(f"{name} {share:.3f}" for name, share in next(iter(shares.values())).items())
        logging.warning("flan2022: the shares of the parts that are there are %s", told)
    return Registered(shares, left_out)


REPORT = _register_as_set()
"""What there is, and what is left out with what it needs."""
