"""Evaluation of a model on the tasks of a prepared mixture: questions, answers, figures."""

from collections.abc import Callable, Sequence

from t5x_instruct.data.prepared import PreparedMixture
from t5x_instruct.decoding.generate import generate
from t5x_instruct.decoding.language_model import LanguageModel
from t5x_instruct.decoding.prompts import reader_of
from t5x_instruct.evaluation.asking import Asked, Questions, ask, choose_tasks, make_asking
from t5x_instruct.evaluation.judging import judge
from t5x_instruct.evaluation.rank_classification import question, rank
from t5x_instruct.evaluation.results import EvalResult
from t5x_instruct.evaluation.task_figures import Answer, Ranked, TaskAnswers, without_split

#: Called with what is being done, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]


def evaluate(
    lm: LanguageModel,
    mixture: PreparedMixture,
    *,
    role: str | None = "held_out",
    tasks: Sequence[str] | None = None,
    split: str = "validation",
    num_examples: int | None = None,
    shots: int = 0,
    max_new_tokens: int = 128,
    batch_size: int = 32,
    inputs_length: int | None = None,
    seed: int = 0,
    modules: Sequence[str] | None = None,
    keep_examples: int = 8,
    progress: Progress | None = None,
) -> EvalResult:
    """Asks the model the tasks' examples, greedily, and computes the tasks' metrics.

    Examples with `options` are also answered by rank classification. A mixture that was prepared with
    ``templates="each"`` has every example asked with every template of its task. The result depends on the model, the
    data and the arguments only: the same examples are asked every time, with the same exemplars, before and after
    training. On several hosts every host calls this; the rows are spread over the mesh of the parameters, host 0
    computes the metrics for all.

    Args:
        lm: the model, with the vocabulary that the mixture was prepared with.
        mixture: prepared examples, with their prompts already in the model's prompt format.
        role: evaluate the mixture's ``held_out`` tasks or those it is trained on (``train``); None for both.
        tasks: evaluate just these, whatever their role.
        split: which of the tasks' splits.
        num_examples: at most this many examples of each task, chosen by hash; None for all.
        shots: answered training examples of the same task before each question, drawn by hash, never the question
            itself; the mixture must have been prepared with exemplars. Those that do not fit into `inputs_length` are
            left out whole, the farthest from the question first.
        max_new_tokens: answers are cut after so many tokens.
        batch_size: examples answered at once.
        inputs_length: most tokens of a prompt. Longer questions lose tokens from their middle, as in training; None
            never cuts.
        seed: of the choice of examples and exemplars.
        modules: what registers the tasks; by default what the mixture was prepared with.
        keep_examples: how many examples of each task the result holds.
        progress: told how far the work is.

    Returns:
        The figures of each task; whatever could not be computed is in its `problems`, the rest goes on.

    Raises:
        ConfigError: an unknown task or role, or none to evaluate; a task module that cannot be imported; exemplars
            that were not prepared.
        DataError: the mixture was prepared with another vocabulary, or the chat template refuses exemplars as turns.
        InstructError: the metrics' process died; the message has the end of what it said.
    """
    asking = make_asking(
        mixture,
        lm.vocabulary,
        split=split,
        num_examples=num_examples,
        inputs_length=inputs_length,
        shots=shots,
        seed=seed,
    )
    chosen = choose_tasks(mixture, role, tasks)
    questions = [ask(task, asking) for task in chosen if split in task.splits]
    told = {one.questions.task.name: one for one in _told(lm, questions, max_new_tokens, batch_size, seed, progress)}
    judged = judge(
        {
            "modules": list(mixture.spec.modules if modules is None else modules),
            "module_options": dict(mixture.spec.module_options),
            "vocabulary": str(mixture.spec.vocabulary),
            "tasks": {name: own.groups() for name, own in told.items()},
        }
    )
    results = [
        told[task.name].result(judged[task.name], keep_examples) if task.name in told else without_split(task, split)
        for task in chosen
    ]
    return EvalResult(split, tuple(results), shots, mixture.spec.templates)


def _told(
    lm: LanguageModel,
    questions: Sequence[Questions],
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    progress: Progress | None,
) -> list[TaskAnswers]:
    """The model's answers to the questions of all tasks, which are asked together."""
    asked = [one for own in questions for one in own.asked]
    answers = _answers(lm, asked, max_new_tokens, batch_size, _stage(progress, "answers"))
    ranked = _ranked(lm, asked, batch_size, _stage(progress, "options"))
    return [
        TaskAnswers(
            own,
            [one for one in answers if one.asked.task == own.task.name],
            [one for one in ranked if one.asked.task == own.task.name],
            seed,
        )
        for own in questions
    ]


def _answers(
    lm: LanguageModel,
    asked: Sequence[Asked],
    max_new_tokens: int,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> list[Answer]:
    reader = reader_of(lm.model)
    continuations = generate(
        lm.model,
        lm.params,
        [reader.prompt(one.inputs, lm.vocabulary.start_id) for one in asked],
        max_new_tokens=max_new_tokens,
        eos_id=lm.vocabulary.eos_id,
        pad_id=lm.vocabulary.pad_id,
        batch_size=batch_size,
        progress=progress,
    )
    return [Answer(one, ids, lm.vocabulary.decode(ids.tolist())) for one, ids in zip(asked, continuations, strict=True)]


def _ranked(
    lm: LanguageModel,
    asked: Sequence[Asked],
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> list[Ranked]:
    questions = []
    for one in asked:
        targets = one.example.targets
        ends = len(targets) > 0 and int(targets[-1]) == lm.vocabulary.eos_id
        found = question(one.inputs, one.target, one.example.meta, ends=ends)
        if found is not None:
            questions.append((one, found))
    choices = rank(lm, [q for _, q in questions], batch_size=batch_size, progress=progress)
    return [Ranked(one, q, choice) for (one, q), choice in zip(questions, choices, strict=True)]


def _stage(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(name, done, total)
