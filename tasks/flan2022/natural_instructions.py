"""Natural Instructions as in Flan 2022: each task of `tasks.niv2` with examples (`_fsopt`) and without (`_zsopt`).

The examples are the task's own positive ones, as `tasks.niv2.SHOTS` asks for. The templates are this project's own.
"""

from types import ModuleType

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.data.tasks import add_rendering, tasks_in
from t5x_instruct.templates.prompts import Template

ZERO_SHOT = [
    Template("{definition}\n\n{input}"),
    Template("{definition}\n\nInput: {input}\nOutput:"),
    Template("Your job: {definition}\n\nHere is what you have to work on.\n{input}"),
    Template("Given:\n{input}\n\nWhat to do with it: {definition}"),
    Template("Instruction: {definition}\nInput: {input}\nResult:"),
    Template("{definition} Do this for the following.\n\n{input}"),
    Template("{input}\n\n{definition}"),
    Template("I will tell you what I need, then give you the text.\n{definition}\nText: {input}"),
]

FEW_SHOT = [
    Template("{definition}\n\n{examples}Now this one.\nInput: {input}\nOutput:"),
    Template("Task: {definition}\n\nThis is how it is done.\n\n{examples}Your turn.\n\nInput: {input}\nOutput:"),
    Template("{examples}The examples follow this instruction: {definition}\n\nFollow it once more.\nInput: {input}"),
    Template("Instruction: {definition}\n\n{examples}Input: {input}\nOutput:"),
    Template("Learn the task from its description and the examples.\n{definition}\n\n{examples}What about\n{input}"),
]


def check(niv2: ModuleType) -> None:
    """Checks that `tasks.niv2` has what both forms need.

    Raises:
        ConfigError: positive examples are switched off, or no task is for training.
    """
    if niv2.SHOTS == "0":
        raise ConfigError("tasks.niv2.SHOTS is '0', but flan2022 shows each task with examples too; set it to 1 or 2")
    tasks_in("niv2_train")


def register() -> dict[str, list[str]]:
    """Registers the two forms of each training task of `tasks.niv2`, which must be imported.

    Returns:
        The names of the tasks by form.
    """
    forms: dict[str, list[str]] = {"zsopt": [], "fsopt": []}
    for task in tasks_in("niv2_train"):
        for form, templates in (("zsopt", ZERO_SHOT), ("fsopt", FEW_SHOT)):
            add_rendering(f"{task}_{form}", task, templates=templates)
            forms[form].append(f"{task}_{form}")
    return forms
