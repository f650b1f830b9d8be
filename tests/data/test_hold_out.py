"""What is held out, and what goes with it."""

import pytest
import seqio

from t5x_instruct.common.io import read_json
from t5x_instruct.data import tasks as registry
from t5x_instruct.data.binding import bind_mixture
from t5x_instruct.data.prepare import prepare
from t5x_instruct.data.prepare_spec import PrepareSpec
from t5x_instruct.data.prepared import load_prepared, manifest_path
from t5x_instruct.data.tasks import add_mixture, add_task, proportional, relate_clusters
from t5x_instruct.data.vocabularies import load_vocabulary

CLUSTERS = {"same": ["same_a", "same_b"], "follows": ["follows_a"], "other": ["other_a"]}


@pytest.fixture(scope="module")
def mixture():
    rows = [{"text": f"line {i}", "answer": "yes"} for i in range(6)]
    names = [f"held_{name}" for names in CLUSTERS.values() for name in names]
    for cluster, members in CLUSTERS.items():
        for name in members:
            source = {"train": rows, "validation": rows[:2]}
            add_task(f"held_{name}", cluster=f"held_{cluster}", source=source, templates=["{text}"], metrics=[])
    add_mixture("held", names, rate=proportional())
    relate_clusters({"held_same": ["held_follows"], "held_follows": ["held_same", "not_in_this_mixture"]})
    yield "held"
    for name in names:
        seqio.TaskRegistry.remove(name)
        registry._TASKS.pop(name)
    seqio.MixtureRegistry.remove("held")


def roles(mixture, hold_out, root):
    spec = PrepareSpec(mixture=mixture, modules=(), vocabulary="bytes", hold_out=hold_out, root=root)
    return {one.task.name.removeprefix("held_"): one.role for one in bind_mixture(spec, load_vocabulary("bytes"))[0]}


ROLES = [
    ((), "train train train train"),
    (("held_same",), "held_out held_out left_out train"),
    (("held_follows",), "left_out left_out held_out train"),
    (("held_same_a",), "held_out train train train"),
    (("held_same_a", "held_same_b"), "held_out held_out left_out train"),
    (("held_same", "held_follows"), "held_out held_out held_out train"),
    (("held_follows", "held_same_a"), "held_out left_out held_out train"),
    (("held_other",), "train train train held_out"),
]


@pytest.mark.parametrize(("hold_out", "wanted"), ROLES, ids=[" ".join(h) or "nothing" for h, _ in ROLES])
def test_relatives_of_a_cluster_that_is_held_out_whole_are_left_out(mixture, tmp_path, hold_out, wanted) -> None:
    names = [name for members in CLUSTERS.values() for name in members]
    assert roles(mixture, hold_out, tmp_path) == dict(zip(names, wanted.split(), strict=True))


def test_what_is_left_out_is_neither_rendered_nor_mixed_and_the_manifest_says_why(mixture, tmp_path) -> None:
    spec = PrepareSpec(mixture=mixture, modules=(), vocabulary="bytes", hold_out=("held_same",), root=tmp_path)
    prepared = prepare(spec, progress=lambda line: None)
    assert [task.name for task in prepared.train_tasks] == ["held_other_a"]
    assert [task.name for task in prepared.held_out_tasks] == ["held_same_a", "held_same_b"]
    why = "its cluster 'held_follows' is related to 'held_same', which is held out"
    assert prepared.left_out == {"held_follows_a": why}
    opened = load_prepared(spec)
    assert opened is not None
    assert opened.left_out == prepared.left_out
    manifest = read_json(manifest_path(spec, load_vocabulary("bytes")))
    assert manifest["left_out"] == [{"name": "held_follows_a", "cluster": "held_follows", "why": why}]
    assert {task["name"] for task in manifest["tasks"]} == {"held_other_a", "held_same_a", "held_same_b"}
    assert not (tmp_path / "tasks" / "held_follows_a").exists()
