"""Rows of Hugging Face datasets, from folders; the hub itself is never asked."""

import builtins

import pytest

from t5x_instruct.common.errors import ConfigError, DataError
from t5x_instruct.data.hub_sources import HuggingFace, dataset_splits

datasets = pytest.importorskip("datasets", reason="needs the extra 'hf'")

ROWS = {"text": ["good film", "bad film"], "label": [1, 0], "note": [None, "x"]}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    features = datasets.Features(
        text=datasets.Value("string"),
        label=datasets.ClassLabel(names=["negative", "positive"]),
        note=datasets.Value("string"),
    )
    dataset = datasets.Dataset.from_dict(ROWS, features=features)
    folder = tmp_path_factory.mktemp("saved") / "films"
    datasets.DatasetDict({"train": dataset, "test": dataset.select([1])}).save_to_disk(folder)
    return folder


def rows_of(source, split="train"):
    return list(source.rows(split))


def test_a_saved_folder_with_its_splits_and_classes(saved):
    assert dataset_splits(str(saved)) == ["train", "test"]
    source = HuggingFace(
        str(saved), {"train": "train", "validation": "test"}, fields={"text": "text", "answer": "label"}
    )
    assert rows_of(source) == [
        {"text": "good film", "answer": "positive"},
        {"text": "bad film", "answer": "negative"},
    ]
    assert rows_of(source, "validation") == [{"text": "bad film", "answer": "negative"}]
    assert any(path.endswith(".arrow") for path in source.files)


def test_faults_of_a_saved_folder(saved, tmp_path):
    with pytest.raises(ConfigError, match="unknown split 'tset'; nearest: 'test'"):
        rows_of(HuggingFace(str(saved), {"train": "tset"}))
    with pytest.raises(ConfigError, match="unknown column 'txt'; nearest: 'text'"):
        rows_of(HuggingFace(str(saved), fields=["txt"]))
    with pytest.raises(DataError, match="split 'train', row 0: the field 'note' is NoneType"):
        rows_of(HuggingFace(str(saved)))


def test_a_folder_of_files(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "films"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    assert rows_of(HuggingFace(str(folder), shape="prompt_completion")) == [{"prompt": "a", "answer": "b"}]


def test_code_of_a_dataset_is_never_run(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "films"
    folder.mkdir()
    ran = tmp_path / "ran"
    (folder / "films.py").write_text(f"open({str(ran)!r}, 'w')\n")
    with pytest.raises((ConfigError, DataError), match="films"):
        rows_of(HuggingFace(str(folder)))
    assert not ran.exists()


def test_without_a_connection_the_message_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    for read in (lambda: rows_of(HuggingFace("nobody/nothing")), lambda: dataset_splits("nobody/nothing")):
        with pytest.raises(DataError, match="'nobody/nothing' is not in the cache and the hub cannot be reached"):
            read()


def test_without_the_extra_the_message_names_it(monkeypatch):
    real = builtins.__import__

    def without_datasets(name, *args, **kwargs):
        if name == "datasets":
            raise ImportError("No module named 'datasets'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_datasets)
    with pytest.raises(ConfigError, match=r"need the extra 'hf': pip install 't5x_instruct\[hf\]'"):
        rows_of(HuggingFace("nobody/nothing"))
