"""The gin files of the package: each resolves, and no setting that a verb offers is ignored by its wiring."""

from pathlib import Path

import pytest

from t5x_instruct.config import schema
from t5x_instruct.config.gin_files import GIN_CONFIGS, macro_uses, parse
from t5x_instruct.config.validate import resolve

RECIPES = sorted((GIN_CONFIGS / "recipes").glob("*.gin"))
WIRINGS = sorted(path for path in (GIN_CONFIGS / "runs").glob("*.gin") if path.stem in schema.VERBS)


def test_there_are_recipes_and_wirings() -> None:
    assert RECIPES
    assert [path.stem for path in WIRINGS]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_resolve(path: Path) -> None:
    config = resolve([path], ["MODEL_DIR=/nowhere"], verb="train")
    assert config.macros["MIXTURE_OR_TASK_NAME"]


@pytest.mark.parametrize("path", WIRINGS, ids=lambda path: path.stem)
def test_every_setting_of_a_verb_reaches_it(path: Path) -> None:
    used = {name for binding in parse([path]).bindings for name in macro_uses(binding.value)}
    offered = {name for name, macro in schema.MACROS.items() if path.stem in macro.defaults}
    assert offered <= used, offered - used
