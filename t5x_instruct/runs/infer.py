"""Answers to prompts."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.common.io import write_bytes
from t5x_instruct.decoding.language_model import LanguageModel
from t5x_instruct.runs.opening import open_language_model
from t5x_instruct.runs.settings import ModelSettings

Request = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Inference:
    """Which model answers, and how.

    Attributes:
        model: which model; it is read when the first prompt is answered.
        max_new_tokens: longest answer.
        temperature: 0 for the likeliest token.
        seed: of sampling.
    """

    model: ModelSettings
    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0

    @functools.cached_property
    def language_model(self) -> LanguageModel:
        """The opened model."""
        return open_language_model(self.model)

    def answer(self, requests: Sequence[Request]) -> list[str]:
        """One answer for each request.

        Args:
            requests: mappings with `prompt` (an instruction) or `messages` (a conversation).

        Raises:
            ConfigError: a conversation for a model without a chat template.
        """
        lm = self.language_model
        template = lm.vocabulary.chat_template
        if template is None and any("messages" in request for request in requests):
            raise ConfigError("'messages' need a model with a chat template, and this one has none; give 'prompt'")
        prompts = [
            template.render(request["messages"], add_generation_prompt=True)
            if template is not None and "messages" in request
            else lm.prompt_format.prompt(request["prompt"])
            for request in requests
        ]
        return lm.generate(
            prompts, max_new_tokens=self.max_new_tokens, temperature=self.temperature, seed=self.seed, raw=True
        )


def read_requests(path: str | Path) -> list[Request]:
    """Requests from a text file (one prompt a line) or a JSONL file.

    Raises:
        DataError: the file cannot be read, or a line is no request; names file and line.
    """
    path = Path(path)
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
    write_bytes(Path(output), "".join(lines).encode())
