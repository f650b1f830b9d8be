"""A mixture goes without the tasks whose data cannot be had, and says so."""

import dataclasses

import pytest
import seqio

from t5x_instruct.common.errors import DataError, SourceUnavailable
from t5x_instruct.common.io import read_json
from t5x_instruct.data.prepare import prepare
from t5x_instruct.data.prepare_spec import Execution, PrepareSpec
from t5x_instruct.data.prepared import load_prepared, manifest_path
from t5x_instruct.data.sources import RowSource
from t5x_instruct.data.tasks import add_mixture, add_task, proportional
from t5x_instruct.data.vocabularies import ByteVocabulary

ROWS = [{"q": f"question {i}", "answer": f"answer {i}"} for i in range(20)]
GONE: set[str] = set()
FETCHED: list[str] = []


class Fetched(RowSource):
    """Rows that have to be fetched first, unless the task's name is in `GONE`."""

    def __init__(self, name, late=False):
        def rows():
            if late and name in GONE:
                raise SourceUnavailable(f"{name} broke off", "read it again")
            return ROWS

        super().__init__({"train": rows, "validation": lambda: ROWS[:3]})
        self._of, self._late = name, late

    def fetch(self, progress):
        FETCHED.append(self._of)
        progress("fetching")
        if self._of in GONE and not self._late:
            raise SourceUnavailable(f"{self._of} is gone", "download it by hand")

    def left_out(self, split):
        return {"train": 5, "validation": 0}[split]

    def num_input_examples(self, split):
        return None if self._of in GONE else super().num_input_examples(split)


@pytest.fixture(autouse=True)
def tasks():
    names = ["skip_a", "skip_b", "skip_c", "skip_late"]
    for name in names:
        add_task(name, cluster=name, source=Fetched(name, name == "skip_late"), templates=["{q}?"], metrics=[])
    add_mixture("skip_inner", [("skip_a", 1.0), ("skip_b", 3.0)])
    add_mixture("skip_lost", [("skip_b", 1.0)])
    add_mixture("skip_all", [("skip_inner", 0.4), ("skip_lost", 0.5), ("skip_c", 0.6)])
    add_mixture("skip_plain", ["skip_a", "skip_late", "skip_c"], rate=proportional(cap=10))
    GONE.clear()
    FETCHED.clear()
    yield
    for name in names:
        seqio.TaskRegistry.remove(name)
    for name in ("skip_inner", "skip_lost", "skip_all", "skip_plain"):
        seqio.MixtureRegistry.remove(name)


def spec_of(folder, mixture="skip_all", **changes):
    return PrepareSpec(mixture=mixture, modules=(), vocabulary="bytes", root=folder, **changes)


def test_a_mixture_goes_without_a_task_and_gives_its_rate_to_the_tasks_beside_it(tmp_path):
    GONE.add("skip_b")
    lines = []
    spec = spec_of(tmp_path)
    mixture = prepare(spec, lines.append)
    assert {t.name: t.rate for t in mixture.tasks} == pytest.approx({"skip_a": 0.4, "skip_c": 0.6})
    (skipped,) = mixture.skipped
    assert (skipped.task, skipped.why, skipped.fix) == ("skip_b", "skip_b is gone", "download it by hand")
    assert read_json(manifest_path(spec, ByteVocabulary()))["skipped"] == [skipped._asdict()]
    assert (
        "1 of 3 tasks were skipped, the others are ready:\n  skip_b: skip_b is gone; download it by hand" in lines[-1]
    )
    assert not list(tmp_path.rglob("*.partial"))
    assert seqio.MixtureRegistry.get("skip_inner").rate_per_task_name == {"skip_a": 1.0, "skip_b": 3.0}
    assert seqio.MixtureRegistry.get("skip_all").rate_per_task_name.keys() == {"skip_inner", "skip_lost", "skip_c"}
    assert load_prepared(spec).skipped == mixture.skipped
    counters = {name: split.counters for name, split in mixture.tasks[0].splits.items()}
    assert counters == {"train": {"count_left_out": 5}, "validation": {}}  # what the source says of itself

    GONE.clear()
    FETCHED.clear()
    whole = prepare(spec, lines.append)
    assert set(FETCHED) == {"skip_b"}  # what is complete is not asked for again
    rates = {"skip_a": 0.4 / 4, "skip_b": 0.4 * 3 / 4 + 0.5, "skip_c": 0.6}
    assert {t.name: t.rate for t in whole.tasks} == pytest.approx(rates)
    assert (whole.skipped, len(whole.tasks)) == ((), 3)
    assert whole.fingerprint != mixture.fingerprint


def test_a_source_may_break_off_while_it_is_read(tmp_path):
    GONE.add("skip_late")
    mixture = prepare(spec_of(tmp_path, "skip_plain"), lambda line: None, Execution(shard_rows=4))
    assert [t.name for t in mixture.tasks] == ["skip_a", "skip_c"]
    assert mixture.skipped[0].fix == "read it again"
    assert "skip_late', split 'train': skip_late broke off" in mixture.skipped[0].why
    assert {t.rate for t in mixture.tasks} == {10.0}


def test_strict_makes_it_an_error_after_everything_else_was_done(tmp_path):
    GONE.update(("skip_a", "skip_b"))
    strict = spec_of(tmp_path, strict=True)
    with pytest.raises(DataError, match="2 of 3 tasks cannot be had.*strict") as caught:
        prepare(strict, lambda line: None)
    assert "skip_a is gone; download it by hand" in str(caught.value)
    assert "skip_b is gone; download it by hand" in str(caught.value)
    assert len(list(tmp_path.rglob("info.json"))) == 2
    lenient = dataclasses.replace(strict, strict=False)
    assert len(prepare(lenient, lambda line: None).skipped) == 2
    assert manifest_path(strict, ByteVocabulary()) == manifest_path(lenient, ByteVocabulary())
    assert load_prepared(strict) is None  # it has to look again, and to refuse
    GONE.clear()
    prepare(strict, lambda line: None)
    assert load_prepared(strict).skipped == load_prepared(lenient).skipped == ()


def test_what_a_run_cannot_do_without_is_never_skipped(tmp_path):
    GONE.update(("skip_a", "skip_b"))
    with pytest.raises(SourceUnavailable, match="skip_a is gone"):
        prepare(spec_of(tmp_path, "skip_a"), lambda line: None)
    with pytest.raises(SourceUnavailable, match="skip_b is gone"):
        prepare(spec_of(tmp_path, hold_out=("skip_b",)), lambda line: None)
    with pytest.raises(DataError, match="2 of 2 tasks cannot be had .none is left to train on"):
        prepare(spec_of(tmp_path, "skip_inner"), lambda line: None)


def test_an_empty_task_is_an_error_and_not_skipped(tmp_path, register):
    register("skip_empty", [("a", "")], {"targets": seqio.Feature(seqio.ByteVocabulary(), add_eos=False)})
    with pytest.raises(
        DataError, match="'skip_empty', split 'train': no example is left: 1 refused, the first because"
    ):
        prepare(spec_of(tmp_path, "skip_empty"), lambda line: None)
    assert not list(tmp_path.rglob("*.partial"))
