"""Every family of decoders against transformers, from stored files: no torch is needed (see make.py, families.py)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from t5x_instruct.checkpoints.convert.hf_config import config_from_hf
from t5x_instruct.checkpoints.convert.hf_export import export_hf
from t5x_instruct.checkpoints.restore import open_source
from tests.parity import table
from tests.parity.families import DECODERS, FAMILIES, Family, Outcome, measured
from tests.parity.goldens import GOLDEN, load, tensors

by_family = pytest.mark.parametrize("family", DECODERS, ids=[family.golden for family in DECODERS])


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """Of the families that a test has asked for so far."""
    return {}


def outcome_of(family: Family, outcomes: dict[str, Outcome]) -> Outcome:
    if family.golden not in outcomes:
        outcomes[family.golden] = measured(family)
    return outcomes[family.golden]


@by_family
def test_logits_loss_gradients_and_greedy_tokens(family: Family, outcomes: dict[str, Outcome]) -> None:
    found = outcome_of(family, outcomes)
    print(found)
    assert found.logits < 1e-4
    assert found.packed < 1e-4
    assert found.loss < 1e-5
    assert found.gradient < 1e-4
    assert found.clear > 0.9
    assert found.wrong == 0


@by_family
def test_what_goes_out_is_what_came_in(family: Family, tmp_path: Path) -> None:
    golden = load(family.golden)
    family.write_folder(tmp_path / "in", golden)
    source = open_source(str(tmp_path / "in"))
    export_hf(source.tensors, source.model_config, source.vocabulary, tmp_path / "out", context_length=64)
    held, expected = load_file(tmp_path / "out" / "model.safetensors"), tensors(golden, "tensor")
    assert held.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(held[name], array, err_msg=name)
    values, given = json.loads((tmp_path / "out" / "config.json").read_text()), json.loads(str(golden["config"]))
    again = config_from_hf(values, own_head=not given["tie_word_embeddings"], where="out")
    assert again == source.model_config
    # Besides what describes the model, transformers sets what is left out itself.
    differing = {k: (values[k], given[k]) for k in values.keys() & given.keys() if values[k] != given[k]}
    assert not differing.keys() - SAID_OTHERWISE, differing


# What a golden file leaves out, ids of the vocabulary that goes along, and what means the same, as `again` shows.
SAID_OTHERWISE = {
    "architectures", "dtype", "bos_token_id", "eos_token_id", "pad_token_id", "rope_parameters", "max_window_layers",
}  # fmt: skip


def test_golden_files_are_small() -> None:
    assert all((GOLDEN / f"{family.golden}.npz").stat().st_size < 150_000 for family in DECODERS)


def test_texts_go_beyond_every_window_and_context() -> None:
    for family in DECODERS:
        golden = load(family.golden)
        values = json.loads(str(golden["config"]))
        said: list[Any] = [values]
        while said:
            one = said.pop()
            said += [value for value in one.values() if isinstance(value, dict)]
            for name in ("sliding_window", "original_max_position_embeddings"):
                assert (one.get(name) or 0) < golden["lengths"].max() - 4, (family.golden, name)


def test_the_table_has_a_line_for_each_family() -> None:
    outcome = Outcome(logits=1.2e-6, packed=2e-6, loss=0.0, gradient=3e-6, clear=1.0, wrong=0)
    lines = table.markdown({family.golden: (outcome, None) for family in FAMILIES}).splitlines()
    assert len(lines) == len(FAMILIES) + 2
    assert lines[2] == "| Llama 2, 3.x, SmolLM2 | 1.2e-06 | 2.0e-06 | 3.0e-06 | 0 | not run |"
