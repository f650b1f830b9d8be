"""Which way of choosing tokens a command asks for."""

from pathlib import Path
from typing import Any

import pytest

from t5x_instruct.cli import main as cli
from t5x_instruct.common.errors import DataError
from t5x_instruct.runs.infer import Inference
from t5x_instruct.runs.settings import ModelSettings
from tests.runs.test_opening import config


def test_answers_are_chosen_as_the_settings_say() -> None:
    model = ModelSettings(config=config(15), vocabulary="bytes")
    inference = Inference(model=model, max_new_tokens=4, num_beams=3, length_penalty=2.0)
    expected = inference.language_model.generate(["Hi"], 4, num_beams=3, length_penalty=2.0)
    assert inference.answer([{"prompt": "Hi"}]) == expected
    assert inference.language_model.generate(["Hi"], 4) != expected


def test_a_conversation_is_answered_as_in_a_chat() -> None:
    model = ModelSettings(config=config(15), vocabulary="bytes")
    inference = Inference(model=model, max_new_tokens=4)
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]
    lm = inference.language_model
    assert inference.answer([{"messages": turns}]) == [lm.chat(turns, max_new_tokens=4)]
    with pytest.raises(DataError, match="cannot be shown tools"):
        inference.answer([{"messages": turns, "tools": [{"function": {"name": "look_up"}}]}])


def test_a_raw_prompt_is_the_text_itself() -> None:
    model = ModelSettings(config=config(15), vocabulary="bytes")
    inference, raw = (Inference(model=model, max_new_tokens=4, raw=given) for given in (False, True))
    lm = raw.language_model
    assert lm.prompt_format.name == "line"
    assert raw.answer([{"prompt": "Hi"}]) == lm.generate(["Hi"], 4, raw=True)
    assert inference.answer([{"prompt": "Hi"}]) == raw.answer([{"prompt": "Hi\n"}]) == lm.generate(["Hi"], 4)
    with pytest.raises(DataError, match="a conversation has none"):
        raw.answer([{"messages": [{"role": "user", "content": "Hi"}]}])


def test_the_command_line_hands_its_options_on(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    made: list[Inference] = []
    monkeypatch.setattr(Inference, "answer", lambda self, requests: made.append(self) or ["."])
    command = ["infer", f"--gin.INITIAL_CHECKPOINT_PATH='{tmp_path}'", "--prompt=x"]
    assert cli.main([*command, "--num_beams=4", "--length_penalty=0.9"]) == 0
    assert cli.main([*command, "--temperature=0.7", "--top_k=5", "--top_p=0.8"]) == 0
    chosen = [(one.temperature, one.top_k, one.top_p, one.num_beams, one.length_penalty) for one in made]
    assert chosen == [(0.0, 0, 1.0, 4, 0.9), (0.7, 5, 0.8, 1, 0.6)]
    assert cli.main([*command, "--raw"]) == 0
    assert [one.raw for one in made] == [False, False, True]
    # Before a model is read: there is none in this folder.
    assert cli.main([*command, "--num_beams=2", "--temperature=0.7"]) == 2
    assert "num_beams 2 with temperature 0.7" in capsys.readouterr().err
    assert cli.main([*command, "--raw", "--shots=2", "--exemplars=small_last"]) == 2
    assert "--raw with --shots 2" in capsys.readouterr().err
