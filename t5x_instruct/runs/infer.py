"""Answers to prompts."""

import dataclasses
import functools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t5x_instruct.common.errors import ConfigError, DataError, unknown
from t5x_instruct.common.io import write_bytes
from t5x_instruct.common.paths import as_path
from t5x_instruct.data.prepare_spec import EXEMPLARS
from t5x_instruct.decoding.language_model import LanguageModel
from t5x_instruct.decoding.sampling import Sampling
from t5x_instruct.evaluation.exemplars import ExemplarPool, PromptForm, fitted
from t5x_instruct.runs.opening import open_data, open_language_model
from t5x_instruct.runs.settings import DataSettings, EvaluationSettings, ModelSettings
from t5x_instruct.templates.few_shot import Exemplar, with_exemplars

Request = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Inference:
    """Which model answers, and how.

    Attributes:
        model: which model; it is read when the first prompt is answered.
        max_new_tokens: longest answer.
        temperature: 0 for the likeliest token.
        top_k: see `decoding.sampling.Sampling`, as for the three that follow.
        top_p: see `Sampling`.
        num_beams: see `Sampling`.
        length_penalty: see `Sampling`.
        seed: of sampling.
        shots: exemplars in front of each prompt.
        exemplars: what they are taken from: a task as the mixture, and the longest prompt as its inputs' length.
        raw: prompts are passed to the model as they are, without its prompt format.
    """

    model: ModelSettings
    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    num_beams: int = 1
    length_penalty: float = 0.6
    seed: int = 0
    shots: int = 0
    exemplars: DataSettings | None = None
    raw: bool = False

    def __post_init__(self) -> None:
        if self.raw and self.shots:
            raise ConfigError(f"--raw with --shots {self.shots}: exemplars are put in front in the prompt format")
        if self.shots < 0 or bool(self.shots) != (self.exemplars is not None):
            raise ConfigError(
                f"shots is {self.shots} and exemplars are {'not ' if self.exemplars is None else ''}given: exemplars "
                "need a task to take them from (--exemplars) and how many (--shots, at least 1)"
            )
        # Refused here and not when the model has been read.
        Sampling(self.temperature, self.top_k, self.top_p, self.num_beams, self.length_penalty)

    @functools.cached_property
    def language_model(self) -> LanguageModel:
        """The opened model."""
        return open_language_model(self.model)

    @functools.cached_property
    def _pool(self) -> ExemplarPool | None:
        return None if self.exemplars is None else open_pool(self.exemplars, self.language_model, self.shots)

    def answer(self, requests: Sequence[Request]) -> list[str]:
        """One answer for each request.

        Args:
            requests: mappings with `prompt` (an instruction) or `messages` (a conversation), with which may be
                `tools`; see `LanguageModel.chat`.

        Raises:
            DataError: the model's prompt format has no text for a conversation.
        """
        return self.language_model.generate(
            [self._prompt(request) for request in requests],
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            num_beams=self.num_beams,
            length_penalty=self.length_penalty,
            seed=self.seed,
        )

    def _prompt(self, request: Request) -> np.ndarray:
        """Token ids of a request, after as many exemplars as fit."""
        if self._pool is None or self.exemplars is None:
            return self._ids(request, [])
        question = request["messages"][-1]["content"] if "messages" in request else request["prompt"]
        # The same exemplars for every prompt: their places in a file say nothing about them.
        drawn = self._pool.draw(self.shots, "infer", question)
        budget = self.exemplars.task_feature_lengths["inputs"]
        ids, kept = fitted(drawn, functools.partial(self._ids, request), budget)
        if len(kept) < self.shots:
            why = f"no more exist of task {self._pool.task!r}"
            if len(kept) < len(drawn):
                why = f"more do not fit into {budget} tokens"
            print(f"note: {len(kept)} of {self.shots} exemplars, {why}: {question[:60]!r}", file=sys.stderr)
        return ids

    def _ids(self, request: Request, exemplars: Sequence[Exemplar]) -> np.ndarray:
        lm = self.language_model
        if "messages" in request:
            if self.raw:
                raise DataError("--raw passes a prompt on as it is, and a conversation has none; give 'prompt'")
            return lm.conversation_ids(with_exemplars(request["messages"], exemplars), request.get("tools"))
        if not exemplars:
            return lm.prompt_ids(request["prompt"], raw=self.raw)
        form = PromptForm(lm.vocabulary, lm.prompt_format, lm.prompt_format.add_eos)
        return np.asarray(form.ids(exemplars, request["prompt"]), np.int32)


def open_pool(data: DataSettings, lm: LanguageModel, shots: int) -> ExemplarPool:
    """The training examples of a task as exemplars, prepared now if they are not yet.

    Raises:
        ConfigError: the name is that of a mixture of several tasks, or the task has no split 'train'.
    """
    mixture = open_data(data, lm.model, lm.vocabulary, lm.prompt_format.name, EvaluationSettings(shots=shots))
    names = [task.name for task in mixture.tasks]
    if names != [data.mixture_or_task_name]:
        raise ConfigError(f"exemplars: {unknown('task', data.mixture_or_task_name, names)}; it is a mixture")
    (task,) = mixture.tasks
    if EXEMPLARS not in task.splits:
        raise ConfigError(f"exemplars: task {task.name!r} has no split 'train' to take them from")
    return ExemplarPool(task.name, task.splits[EXEMPLARS], data.seed)


def read_requests(name: "str | os.PathLike[str]") -> list[Request]:
    """Requests from a text file (one prompt a line) or a JSONL file.

    Raises:
        DataError: the file cannot be read, or a line is no request; names file and line.
    """
    path = as_path(name)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read prompts from {path}: {error}") from error
    if path.suffix not in (".jsonl", ".json"):
        return [{"prompt": line} for line in lines if line.strip()]
    return [_request(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def _request(line: str, where: str) -> Request:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}): {line[:80]}") from error
    if isinstance(value, dict) and (isinstance(value.get("prompt"), str) or isinstance(value.get("messages"), list)):
        return value
    raise DataError(f"{where}: needs an object with 'prompt' (text) or 'messages' (list), got {line[:80]}")


def write_answers(requests: Sequence[Request], answers: Sequence[str], output: str | None) -> None:
    """Writes each request with its `response` as JSONL, or prints the answers."""
    if output is None:
        print("\n".join(answers))
        return
    lines = [
        json.dumps({**request, "response": answer}, ensure_ascii=False) + "\n"
        for request, answer in zip(requests, answers, strict=True)
    ]
    write_bytes(as_path(output), "".join(lines).encode())
