"""Task modules that know nothing of this project: seqio's own test tasks, and one in T5X's documented style."""

from pathlib import Path

import numpy as np
import pytest
import seqio
from seqio import test_utils as seqio_tests

from t5x_instruct.common.errors import DataError
from t5x_instruct.data.converters import make_converter
from t5x_instruct.data.loader import Loader
from t5x_instruct.data.prepare import prepare
from t5x_instruct.data.prepare_spec import PrepareSpec
from t5x_instruct.data.preview import preview
from t5x_instruct.data.vocabularies import load_vocabulary

HERE = Path(__file__).parent
MODEL = str(Path(seqio_tests.TEST_DATA_DIR) / "sentencepiece" / "sentencepiece.model")
T5X_STYLE = str(HERE / "t5x_style_tasks.py")


def quiet(line):
    del line


def spec_of(folder, mixture, *modules, **changes):
    return PrepareSpec(mixture=mixture, modules=modules, vocabulary=MODEL, root=folder, **changes)


class NothingToDownload:
    @staticmethod
    def download_and_prepare():
        pass


@pytest.fixture(scope="module")
def seqios_own():
    """The tasks of seqio's tests, which empty the registries first: what was there comes back at the end."""
    registries = seqio.TaskRegistry, seqio.MixtureRegistry
    before = [dict(registry._REGISTRY) for registry in registries]
    case = seqio_tests.FakeMixtureTest()
    # Its made-up TFDS has no builder, which is asked to download a data set before it is read.
    made_up = pytest.MonkeyPatch()
    made_up.setattr(seqio_tests.FakeLazyTfds, "builder", NothingToDownload, raising=False)
    with pytest.MonkeyPatch.context() as words:
        words.setattr("sys.argv", ["tests"])  # it reads them as its own flags
        case.setUp()
    yield case
    case.tearDown()
    case.doCleanups()
    made_up.undo()
    seqio.set_global_cache_dirs([])
    for registry, entries in zip(registries, before, strict=True):
        registry._REGISTRY.clear()
        registry._REGISTRY.update(entries)


OWN = [
    "tfds_task",
    "t5:tfds_task",
    "text_line_task",
    "tf_example_task",
    "proto_task",
    "function_task",
    "cached_task",
]


@pytest.mark.parametrize("name", OWN)
def test_seqios_own_tasks_are_prepared_as_seqio_reads_them(seqios_own, tmp_path, name):
    task = seqio.TaskRegistry.get(name)
    spec = spec_of(tmp_path, name)
    prepared = prepare(spec, quiet)
    (found,) = prepared.tasks
    assert set(found.splits) == set(task.splits)
    for split, records in found.splits.items():
        rows = list(task.get_dataset(None, split, shuffle=False).as_numpy_iterator())
        assert records.num_examples == len(rows) > 0
        for i, row in enumerate(rows):
            read = records.read(i)
            assert read.inputs.tolist() == row["inputs"].tolist()
            assert read.targets.tolist() == row["targets"].tolist()
            assert read.meta["inputs_pretokenized"] == row["inputs_pretokenized"].decode()
    shown = preview(spec, name, "train", 1)[0]
    assert shown.inputs_text.startswith("complete: ")
    assert shown.fault is None


@pytest.mark.parametrize("name", ["fully_processed_precache", "tokenized_postcache"])
def test_ids_that_no_vocabulary_has_are_refused(seqios_own, tmp_path, name):
    # Their last step writes the id 50, and the vocabulary of seqio's tests has 26.
    with pytest.raises(DataError, match=f"task '{name}'.*inputs have the id 50, outside the vocabulary's 0 to 25"):
        prepare(spec_of(tmp_path, name), quiet)


def test_a_step_that_wants_the_lengths_is_named(seqios_own, tmp_path):
    # Texts are rendered before lengths are known, so seqio gives None for them.
    with pytest.raises(DataError, match="task 'random_task', split 'train'"):
        prepare(spec_of(tmp_path, "uncached_random_mixture"), quiet)


@pytest.fixture(scope="module")
def t5x_style(tmp_path_factory):
    environment = pytest.MonkeyPatch()
    environment.setenv("T5X_STYLE_VOCABULARY", MODEL)
    spec = spec_of(tmp_path_factory.mktemp("t5x_style"), "t5x_style", T5X_STYLE)
    yield spec, prepare(spec, quiet)
    environment.undo()
    seqio.MixtureRegistry.remove("t5x_style")
    for name in ("t5x_style_sums", "t5x_style_names"):
        seqio.TaskRegistry.remove(name)


def test_a_module_in_t5xs_style_is_prepared(t5x_style):
    _, prepared = t5x_style
    tasks = {task.name: task for task in prepared.tasks}
    assert {name: (task.rate, task.cluster, task.inputs_tail) for name, task in tasks.items()} == {
        "t5x_style_sums": (3.0, "t5x_style_sums", 1),  # 4 examples, at most 3
        "t5x_style_names": (3.0, "t5x_style_names", 1),
    }
    sums = tasks["t5x_style_sums"].splits["train"]
    vocabulary = load_vocabulary(MODEL)
    texts = [sums.read(i).meta["inputs_pretokenized"] for i in range(4)]
    assert {text.partition(":")[0] for text in texts} <= {"sum", "add"}
    assert [text.partition(": ")[2] for text in texts] == ["1 2", "2 2", "5 1", "0 7"]
    first = sums.read(0)
    assert first.inputs.tolist() == [*vocabulary.encode(texts[0]), vocabulary.eos_id]
    assert first.targets.tolist() == [*vocabulary.encode("3"), vocabulary.eos_id]
    names = tasks["t5x_style_names"].splits["train"]
    assert names.read(1).targets.tolist() == [*vocabulary.encode("bob"), vocabulary.eos_id]
    assert tasks["t5x_style_names"].splits["validation"].num_examples == 1


def test_a_module_in_t5xs_style_is_shown(t5x_style):
    spec, _ = t5x_style
    shown = preview(spec, "t5x_style_sums", "validation", 2)
    assert [one.targets_text for one in shown] == ["3", "4"]
    assert shown[0].targets_tokens[-1] == load_vocabulary(MODEL).token_string(load_vocabulary(MODEL).eos_id)


@pytest.mark.parametrize("reads_inputs", ["encoder", "causal"])
def test_a_batch_of_a_module_in_t5xs_style(t5x_style, reads_inputs):
    _, prepared = t5x_style
    vocabulary = load_vocabulary(MODEL)
    converter = make_converter(
        reads_inputs, inputs_length=24, targets_length=12, start_id=vocabulary.start_id, pad_id=vocabulary.pad_id
    )
    batch = next(iter(Loader(prepared, "train", converter, 4, 0)))
    trained = batch["decoder_loss_weights"] > 0
    targets = batch["decoder_target_tokens"][trained]
    assert np.isin(vocabulary.eos_id, targets)
    words = {
        text
        for row, mask in zip(batch["decoder_target_tokens"], trained, strict=True)
        for text in vocabulary.decode(row[mask].tolist()).split()
    }
    assert words & {"3", "4", "6", "7", "ann", "bob", "cid"}
