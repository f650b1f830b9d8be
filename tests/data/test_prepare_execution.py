"""Who does the work, and what an interruption leaves, never shows in what is prepared."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_instruct.common.errors import ConfigError, DataError, InstructError, SourceUnavailable
from t5x_instruct.data import units
from t5x_instruct.data.binding import bind_mixture
from t5x_instruct.data.prepare import prepare
from t5x_instruct.data.prepare_spec import Execution, PrepareSpec
from t5x_instruct.data.prepare_workers import describe_error, error_from
from t5x_instruct.data.prepared import child_environment, load_prepared
from t5x_instruct.data.shards import ShardReport, SplitFolder
from t5x_instruct.data.units import Unit, UnitRenderer, code_of, has_ranges, plan_units
from t5x_instruct.data.vocabularies import ByteVocabulary

TASKS = """
import os, signal, time
from pathlib import Path
import seqio
import tensorflow as tf
from t5x_instruct.data.sources import RowSource
from t5x_instruct.data.tasks import add_mixture, add_task
from t5x_instruct.data.seqio_vocabulary import model_features

HERE = Path(__file__).parent
ASKS = int(os.environ["EXECUTION_TEST"])  # counts rows, and is not to be killed

def rows(split):
    for i in range(90 if split == "train" else 7):
        if split == "train" and i == 50 and (HERE / "kill").exists() and os.getpid() != ASKS:
            while not list(Path((HERE / "kill").read_text()).rglob("*.shard.json")):
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGKILL)
        if split == "train" and i == 50 and (HERE / "interrupt").exists():
            raise KeyboardInterrupt
        options = [f"town {i}", "no town", f"river {i}"]
        yield {"country": f"land {i}", "answer": f"town {i}", "options": options}

add_task(
    "execution_rows",
    cluster="places",
    source=RowSource({s: lambda s=s: rows(s) for s in ("train", "validation")}),
    templates=["Capital of {country}?\\n{options}", "{country}: its capital is", "{options_inline} of {country}:"],
    metrics=[],
)

@seqio.map_over_dataset(num_seeds=1)
def draw(example, seed):
    number = tf.random.stateless_uniform([], seed, 0, 1000, tf.int32)
    return {**example, "inputs": tf.strings.as_string(number), "count_even": 1 - number % 2}

def numbers(split, shuffle_files, seed=None):
    return tf.data.Dataset.range(40).map(lambda i: {"targets": tf.strings.as_string(i)})

seqio.TaskRegistry.add(
    "execution_whole",
    source=seqio.FunctionDataSource(numbers, splits=("train", "validation")),
    preprocessors=[draw, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features=model_features(),
    metric_fns=[],
)
add_mixture("execution", ["execution_rows", "execution_whole"], rate=1.0)
"""


def quiet(line):
    del line


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def state(folder):
    """Every shard with what changes when it is written again."""
    found = {}
    for path in folder.rglob("v*"):
        stat = path.stat()
        found[path.name, stat.st_ino] = stat.st_mtime_ns
    return found


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    path = tmp_path_factory.mktemp("tasks") / "execution_tasks.py"
    path.write_text(TASKS)
    os.environ["EXECUTION_TEST"] = str(os.getpid())
    yield path
    del os.environ["EXECUTION_TEST"]


@pytest.fixture(scope="module")
def asked(module, tmp_path_factory):
    return PrepareSpec(
        mixture="execution",
        modules=(str(module),),
        vocabulary="bytes",
        variants=2,
        root=tmp_path_factory.mktemp("here"),
    )


@pytest.fixture(scope="module")
def here(asked):
    """Prepared in this process, without a fault."""
    return prepare(asked, quiet, Execution(shard_rows=8))


def test_shards_are_of_rows_and_read_as_one(here, asked):
    rows, whole = here.tasks
    train = rows.splits["train"]
    assert len(list(train.folder.glob("v000-*.array_record"))) == 12
    assert len(list(train.folder.glob("v001-*.array_record"))) == 12
    assert not list(train.folder.glob("*.json.*")) + list(train.folder.glob("*.shard.json"))
    for i in (0, 7, 8, 50, 89):
        assert {train.read(i, v).meta["country"] for v in range(2)} == {f"land {i}"}
    even = [
        1 - int(whole.splits["train"].read(i, v).meta["inputs_pretokenized"]) % 2 for i in range(40) for v in (0, 1)
    ]
    assert whole.splits["train"].counters == {"count_even": sum(even)}
    assert rows.splits["train"].counters == {}
    large = prepare(dataclasses.replace(asked, root=asked.root.parent / "large"), quiet)
    one = large.tasks[0].splits["train"]
    assert len(list(one.folder.glob("*.array_record"))) == 2
    assert [e.meta for e in one.read_many(range(90), [1] * 90)] == [
        e.meta for e in train.read_many(range(90), [1] * 90)
    ]
    assert (large.fingerprint, one.tokens) == (here.fingerprint, train.tokens)


def test_processes_go_on_after_one_was_killed_and_write_the_same_files(here, asked, module, tmp_path):
    spec = dataclasses.replace(asked, root=tmp_path)
    execution = Execution(workers=2, shard_rows=8)
    (module.parent / "kill").write_text(str(tmp_path))
    try:
        with pytest.raises(DataError, match="a worker of `prepare` was killed by signal SIGKILL"):
            prepare(spec, quiet, execution)
    finally:
        (module.parent / "kill").unlink()
    assert load_prepared(spec) is None
    kept = state(tmp_path)
    assert kept
    lines = []
    assert prepare(spec, lines.append, execution).fingerprint == here.fingerprint
    assert any("shards are there; going on with the others" in line for line in lines)
    assert kept.items() <= state(tmp_path).items()
    assert content(tmp_path / "tasks") == content(asked.root / "tasks")


def test_a_killed_run_keeps_its_shards(here, asked, module, tmp_path):
    spec = dataclasses.replace(asked, root=tmp_path, mixture="execution_rows")
    command = [sys.executable, "-c", WAITING, json.dumps(spec.to_json())]
    child = subprocess.Popen(command, env=child_environment(), stdin=subprocess.PIPE)
    try:
        while len(list(tmp_path.rglob("*.shard.json"))) < 4:  # it waits at row 50, in the seventh
            assert child.poll() is None
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    finally:
        child.kill()
        child.wait()
    kept = {key: time for key, time in state(tmp_path).items() if reported(tmp_path, key[0])}
    assert len(kept) >= 16
    task = prepare(spec, quiet, Execution(shard_rows=8)).tasks[0]
    assert kept.items() <= state(tmp_path).items()
    assert content(task.splits["train"].folder) == content(here.tasks[0].splits["train"].folder)


WAITING = """
import builtins, json, sys
from t5x_instruct.data.prepare import prepare
from t5x_instruct.data.prepare_spec import Execution, PrepareSpec
from t5x_instruct.data import units

render = units.to_example
def waiting(row, bound, vocabulary):
    if row.get("country") == "land 50":
        sys.stdin.read()
    return render(row, bound, vocabulary)
units.to_example = waiting
prepare(PrepareSpec.from_json(json.loads(sys.argv[1])), execution=Execution(shard_rows=8))
"""


def reported(root, name):
    return bool(list(root.rglob(f"{name.split('.')[0].split('-')[1]}.shard.json")))


def test_an_interrupted_run_goes_on_at_its_first_missing_shard(here, asked, module, tmp_path):
    spec = dataclasses.replace(asked, root=tmp_path)
    (module.parent / "interrupt").touch()
    try:
        with pytest.raises(KeyboardInterrupt):
            prepare(spec, quiet, Execution(shard_rows=8))
    finally:
        (module.parent / "interrupt").unlink()
    partial = next(tmp_path.rglob(".train.partial"))
    assert len(list(partial.glob("*.shard.json"))) == 6
    damaged = partial / "v001-00002.array_record"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    kept = {key: time for key, time in state(tmp_path).items() if "00002" not in key[0]}
    prepare(spec, quiet, Execution(shard_rows=8))
    assert kept.items() <= state(tmp_path).items()
    assert content(tmp_path / "tasks") == content(asked.root / "tasks")


def test_a_whole_split_is_rendered_again_but_its_shards_are_kept(here, asked, tmp_path):
    spec = dataclasses.replace(asked, root=tmp_path, mixture="execution_whole", splits=("train",))
    one = bind_mixture(spec, ByteVocabulary())[0][0]
    assert not has_ranges(one)
    prepare(spec, quiet, Execution(shard_rows=8))
    folder = next(tmp_path.rglob("train"))
    before = state(folder)
    # As if it had been killed before the report of its fourth shard.
    again = tmp_path / "again"
    final = again / folder.relative_to(tmp_path)
    split = SplitFolder(final, {"fingerprint": one.fingerprint, "shard_rows": 8})
    assert split.acquire()
    assert split.begin() == {}
    split.release()
    info = json.loads((folder / "info.json").read_text())
    for entry in (e for e in info["shards"] if "-00003" not in e["file"]):
        for suffix in (".array_record", ".lengths.npy"):
            name = entry["file"].removesuffix(".array_record") + suffix
            (folder / name).rename(split.partial / name)
    for shard in (0, 1, 2, 4):
        report = ShardReport(shard, rows=8, last=shard == 4, num_examples=8)
        report.files = [e for e in info["shards"] if f"-{shard:05d}" in e["file"]]
        report.counters = {"count_even": 0}
        (split.partial / f"{shard:05d}.shard.json").write_text(json.dumps(dataclasses.asdict(report)))
    prepare(dataclasses.replace(spec, root=again), quiet, Execution(shard_rows=8))
    kept = {key: time for key, time in before.items() if "-00003" not in key[0]}
    assert kept.items() <= state(final).items()
    original = here.tasks[1].splits["train"].folder
    assert (final / "v001-00003.array_record").read_bytes() == (original / "v001-00003.array_record").read_bytes()


def test_progress_of_a_range_is_that_of_its_own_rows(here, asked, tmp_path, monkeypatch):
    monkeypatch.setattr(units, "PROGRESS_SECONDS", 0.0)
    spec = dataclasses.replace(asked, root=tmp_path)
    one = bind_mixture(spec, ByteVocabulary())[0][0]
    for first, shards, rows in ((0, 2, 16), (4, 2, 16), (10, None, 10)):
        unit = Unit("execution_rows", "train", "train", one.fingerprint, first, shards)
        units.split_folder_of(unit, spec, 8).partial.mkdir(parents=True, exist_ok=True)
        lines = []
        units.render_unit(one, unit, spec, ByteVocabulary(), 8, lines.append)
        start = f"from row {8 * first}: " if first else ""
        assert [line.partition(" rows")[0] for line in lines] == [f"{start}{i} of {rows}" for i in range(rows)]
        assert lines[0].endswith(f" of {rows} rows (0 rows/s)")
        assert all(line.endswith(" s left)") for line in lines[1:])


@settings(max_examples=60, deadline=None)
@given(kept=st.sets(st.integers(0, 11), max_size=12), workers=st.integers(1, 9), has_last=st.booleans())
def test_units_are_the_missing_shards_each_once(here, asked, kept, workers, has_last):
    one = bind_mixture(asked, ByteVocabulary())[0][0]
    reports = {k: ShardReport(k, last=has_last and k == 11) for k in kept}
    units = plan_units(one, Unit("execution_rows", "train", "train", "f"), reports, 8, workers)
    planned = [k for u in units for k in range(u.first, u.first + (20 if u.shards is None else u.shards))]
    assert len(planned) == len(set(planned))
    assert set(planned) >= set(range(12)) - kept
    assert not {k for k in planned if k < 12} & kept
    assert all(u.shards is not None for u in units[:-1])
    if has_last and 11 in kept:
        assert set(planned) == set(range(12)) - kept
    if workers == 3 and not kept:
        assert [(u.first, u.shards) for u in units] == [(0, 4), (4, 4), (8, None)]


def test_shards_of_another_size_are_not_mixed(asked, module, tmp_path):
    folder = SplitFolder(tmp_path / "task" / "train", {"fingerprint": "f", "shard_rows": 8})
    folder.acquire()
    folder.begin()
    (folder.partial / "00000.shard.json").write_text(json.dumps(dataclasses.asdict(ShardReport(0, rows=8))))
    assert list(folder.begin()) == [0]
    other = SplitFolder(tmp_path / "task" / "train", {"fingerprint": "f", "shard_rows": 9})
    assert other.begin() == {}
    folder.release()


def test_a_split_that_was_complete_but_not_visible_becomes_visible(here, asked, tmp_path):
    spec = dataclasses.replace(asked, root=tmp_path)
    prepare(spec, quiet, Execution(shard_rows=8))
    folder = next(p for p in tmp_path.rglob("train") if "execution_rows" in str(p))
    before = state(folder)
    folder.rename(folder.parent / ".train.partial")
    assert load_prepared(spec) is None
    prepare(spec, quiet, Execution(shard_rows=8))
    assert state(folder) == before


def test_a_worker_needs_modules_that_register_the_tasks_in_the_same_version(asked):
    renderer = UnitRenderer(asked, code_of(asked), 8)
    with pytest.raises(ConfigError, match="unknown task 'execution_row'; .*the modules of a run have to register"):
        renderer.render(Unit("execution_row", "train", "train", "f"), quiet)
    with pytest.raises(ConfigError, match="give every worker the same version"):
        UnitRenderer(asked, ["other"], 8)


def test_errors_of_workers_are_those_of_the_work():
    for error in (ConfigError("a"), DataError("b"), SourceUnavailable("c", "do d"), KeyError("e")):
        again = error_from(describe_error(error))
        kind = type(error) if isinstance(error, InstructError) else DataError
        assert type(again) is kind
        assert str(again) == (str(error) if kind is type(error) else f"KeyError: {error}")
    assert error_from(describe_error(SourceUnavailable("c", "do d"))).fix == "do d"


def test_execution_names_what_does_not_fit():
    with pytest.raises(ConfigError, match="workers is 0"):
        Execution(workers=0)
    with pytest.raises(ConfigError, match="beside the runner 'DirectRunner'"):
        Execution(workers=2, runner="DirectRunner")
    with pytest.raises(ConfigError, match="without a runner"):
        Execution(pipeline_options=("a=b",))


@pytest.mark.beam
def test_a_pipeline_writes_the_same_files(here, asked, module, tmp_path):
    spec = dataclasses.replace(asked, root=tmp_path)
    execution = Execution(runner="DirectRunner", shard_rows=8)
    (module.parent / "interrupt").unlink(missing_ok=True)
    assert prepare(spec, quiet, execution).fingerprint == here.fingerprint
    assert content(tmp_path / "tasks") == content(asked.root / "tasks")
    assert not list(tmp_path.glob(".faults*"))


@pytest.mark.beam
def test_a_fault_in_a_pipeline_is_told_like_any_other(tmp_path):
    path = tmp_path / "pipeline_fault.py"
    path.write_text(
        "from t5x_instruct.data.tasks import add_task\n"
        "rows = [{'a': 'x', 'answer': 'y', 'options': ['z']}]\n"
        "add_task('pipeline_fault', cluster='c', source={'train': rows}, templates=['{a}'], metrics=[])\n"
    )
    spec = PrepareSpec(mixture="pipeline_fault", modules=(str(path),), vocabulary="bytes", root=tmp_path / "root")
    with pytest.raises(DataError, match="task 'pipeline_fault', split 'train', near example 0: .*'y' is not one of"):
        prepare(spec, quiet, Execution(runner="DirectRunner"))
    assert not list(spec.root.rglob("*.partial"))
