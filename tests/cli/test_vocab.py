"""`vocab`: from a mixture's texts to a vocabulary that `prepare` takes."""

import json
from pathlib import Path

import pytest

from t5x_instruct.cli.main import main
from t5x_instruct.data.vocabularies import load_vocabulary

MODULE = """
from t5x_instruct.data.tasks import add_mixture, add_task

for name, letters in {"vocab_cli_seen": "abcde", "vocab_cli_unseen": "жщ"}.items():
    rows = [{"word": a + b, "answer": b + a} for a in letters for b in letters]
    add_task(name, cluster=f"{name}_cluster", source={"train": rows, "validation": rows[:2]},
             templates=["Turn {word} around.", "{word} backwards:"], metrics=[])
add_mixture("vocab_cli", ["vocab_cli_seen", "vocab_cli_unseen"], rate=1.0)
"""


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("vocab")
    module = folder / "vocab_cli_tasks.py"
    module.write_text(MODULE, encoding="utf-8")
    return ["vocab", "vocab_cli", "--module", str(module), "--prepared_dir", str(folder / "prepared")]


def test_what_is_held_out_is_not_in_it(words: list[str], tmp_path: Path, capsys) -> None:
    folder = tmp_path / "vocabulary"
    arguments = [*words, "--hold_out", "vocab_cli_unseen_cluster", "--output", str(folder), "--no_byte_fallback"]
    assert main([*arguments, "--vocab_size", "5000"]) == 2
    largest = capsys.readouterr().err.partition("the largest possible is ")[2].partition(":")[0]
    assert main([*arguments, "--vocab_size", largest, "--extra_ids", "4", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["vocabulary"], row["ids"], row["texts"]) == (str(folder), int(largest) + 4, 50)
    vocabulary = load_vocabulary(folder)
    assert vocabulary.vocab_size == int(largest) + 4
    for text in ("Turn ab around.", "cd backwards:"):
        assert vocabulary.decode(vocabulary.encode(text)) == text
    assert 2 in vocabulary.encode("ж")
    assert main([*arguments, "--vocab_size", largest]) == 2
    assert "spiece.model exists" in capsys.readouterr().err


def test_numbers_that_make_no_sense_are_named(words: list[str], tmp_path: Path, capsys) -> None:
    arguments = ["--output", str(tmp_path / "v"), "--vocab_size", "0", "--extra_ids", "-1", "--num_examples", "0"]
    assert main([*words, *arguments]) == 2
    shown = capsys.readouterr().err
    for problem in ("--vocab_size 0: must be at least 1", "--extra_ids -1", "--num_examples 0"):
        assert problem in shown
