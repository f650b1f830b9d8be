"""A small schema of components, and a way to write and resolve gin text."""

from collections.abc import Callable
from pathlib import Path

import pytest

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.config import schema
from t5x_instruct.config.validate import ResolvedConfig, resolve

NAMES = ("Layer", "Network", "Loop", "scale", "anything")


@pytest.fixture(autouse=True)
def small_schema(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in NAMES:
        monkeypatch.setitem(schema.CONFIGURABLES, name, f"tests.config.components:{name}")
    monkeypatch.chdir(tmp_path)


Resolve = Callable[..., ResolvedConfig]


@pytest.fixture
def resolve_text(tmp_path: Path) -> Resolve:
    def resolve_text(text: str, *overrides: str, verb: str | None = None) -> ResolvedConfig:
        (tmp_path / "run.gin").write_text(text, encoding="utf-8")
        return resolve(["run.gin"], overrides, verb=verb)

    return resolve_text


@pytest.fixture
def problems_of(resolve_text: Resolve) -> Callable[..., list[str]]:
    def problems_of(text: str, *overrides: str, verb: str | None = None) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            resolve_text(text, *overrides, verb=verb)
        return caught.value.problems

    return problems_of
