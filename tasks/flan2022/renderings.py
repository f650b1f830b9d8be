"""The forms in which the Flan 2022 collection shows a task: zero-shot and few-shot, with and without options."""

from collections.abc import Mapping

from t5x_instruct.data.tasks import Rate, add_mixture, add_rendering

REGISTERS_FOR_CALLERS = True
"""A rendering's place is the module that asks for it, not this one."""

SHOTS = (1, 5)
"""The fewest and the most solved examples before a few-shot question; they have its template and option style."""

FORMS: Mapping[str, bool] = {"zsopt": True, "zsnoopt": False, "fsopt": True, "fsnoopt": False}
"""Each form's name, and whether it shows options; in some styles, which are lettered, the letter is the answer."""

FORMS_WITH_OPTIONS = ("zsopt", "fsopt")

INVERTED_SHARE = 0.3
"""How much an inverted task counts, compared with the one it belongs to."""


def add_forms(task: str, budget: int) -> None:
    """Registers '{task}_zsopt' and so on: all `FORMS` of a task.

    Args:
        task: the task's name.
        budget: tokens of inputs up to which solved examples are kept.
    """
    for form, options in FORMS.items():
        add_rendering(
            f"{task}_{form}",
            task,
            options="shown" if options else "hidden",
            letters=options,
            shots=SHOTS if form.startswith("fs") else (0, 0),
            budget=budget,
        )


def add_submixture(name: str, forms: Mapping[str, list[str | tuple[str, Rate]]], rate: Rate) -> None:
    """Registers '{name}_{form}' for each form, and '{name}' with an equal share for each of them.

    Args:
        name: the submixture's name.
        forms: for each form its tasks, some perhaps with a rate of their own.
        rate: the rate of the others inside their form.
    """
    for form, tasks in forms.items():
        add_mixture(f"{name}_{form}", tasks, rate=rate)
    add_mixture(name, [f"{name}_{form}" for form in forms], rate=1.0)
