"""Real processes over loopback: each reads its share, together they are one run."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from t5x_instruct.cloud.local_pod import LocalPod, PodRun
from t5x_instruct.common.trees import flatten_with_names
from t5x_instruct.data.prepared import ensure_prepared

from .two_hosts import STEPS, lonely_settings, settings, spec_of

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def prepared(prepared_root):
    for data in (settings(prepared_root), lonely_settings(prepared_root)):
        ensure_prepared(spec_of(data), in_process=True)
    return prepared_root


class Saw(NamedTuple):
    """What one process saw.

    Attributes:
        arrays: its shares of the batches, and `losses`.
        figures: see `two_hosts.Host.figures`.
    """

    arrays: dict
    figures: dict


def start_hosts(count, prepared, output):
    """Starts `count` processes with four devices in all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for host in range(count):
        environment = os.environ | {
            "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={4 // count}",
            "PYTHONPATH": str(CHECKOUT),
            "T5X_INSTRUCT_COORDINATOR": f"127.0.0.1:{port}",
            "T5X_INSTRUCT_NUM_HOSTS": str(count),
            "T5X_INSTRUCT_HOST": str(host),
        }
        if count == 1:
            del environment["T5X_INSTRUCT_COORDINATOR"]
        command = [sys.executable, "-m", "tests.multidevice.two_hosts", str(prepared), str(output)]
        children.append(
            subprocess.Popen(command, env=environment, cwd=CHECKOUT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        )
    return children


def what_they_saw(children, output):
    """Waits for the processes and reads what each of them saw."""
    errors = [child.communicate(timeout=300)[1].decode() for child in children]
    for child, error in zip(children, errors, strict=True):
        assert child.returncode == 0, error[-3000:]
    return [
        Saw(dict(np.load(output / f"host{host}.npz")), json.loads((output / f"host{host}.json").read_text()))
        for host in range(len(children))
    ]


@pytest.fixture(scope="module")
def one_and_two(prepared, tmp_path_factory):
    """What one process saw, and what each of two did."""
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    started = [start_hosts(count, prepared, folder) for count, folder in enumerate(folders, 1)]
    (whole,), halves = map(what_they_saw, started, folders)
    return whole, halves


def test_two_processes_read_halves_of_one_host_s_batches_and_train_like_it(one_and_two):
    whole, halves = (one_and_two[0].arrays, [half.arrays for half in one_and_two[1]])
    keys = [key for key in whole if key != "losses"]
    assert len(keys) == 6 * STEPS
    for key in keys:
        np.testing.assert_array_equal(np.concatenate([half[key] for half in halves]), whole[key])
        assert len(halves[0][key]) == len(halves[1][key]) == 4
    np.testing.assert_array_equal(halves[0]["losses"], halves[1]["losses"])
    np.testing.assert_allclose(halves[0]["losses"], whole["losses"], rtol=1e-5)


def test_two_processes_find_the_figures_of_one(one_and_two):
    """Though the last validation batch of one mixture is not full, and the other has one example for two hosts.

    Counts and answers are the same; losses are float32 sums over devices, which processes add up in another order.
    """
    whole, halves = (one_and_two[0].figures, [half.figures for half in one_and_two[1]])
    assert halves[0] == halves[1]
    found, expected = (flatten_with_names(figures["validation"]) for figures in (halves[0], whole))
    assert found == pytest.approx(expected, rel=1e-6)
    assert halves[0] | {"validation": None} == whole | {"validation": None}
    assert whole["rows"]["small"] % settings("").batch_size
    assert whole["rows"]["lonely"] == 1
    for mixture in ("small", "lonely"):
        assert whole["validation"][mixture]["target_tokens"] > 0
    tasks = {task["task"]: task for task in whole["evaluation"]["tasks"]}
    assert {name: task["num_examples"] for name, task in tasks.items()} == {"lonely_one": 1, "small_last": 3}
    assert not any(task["problems"] for task in tasks.values())


def small_pod(what, who, step=5, *, count=2, timeout=20, grace=60):
    """Runs `pod_member` on a pod; returns the exit codes of all hosts, the pod's, and the lines."""
    lines = []
    command = [sys.executable, "-m", "tests.multidevice.pod_member", what, str(who), str(step), str(timeout)]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    run = PodRun(LocalPod(count, 2, grace_seconds=grace), command, lines.append, environment)
    code = run.run()
    return [process.returncode for process in run.processes], code, lines


def errors_of(host, lines):
    return [line for line in lines if line.startswith(f"[{host}] error: ")]


def test_a_stop_that_one_host_is_asked_for_is_one_step_of_all():
    ends, code, lines = small_pod("stop", 1)
    assert (ends, code) == ([42, 42], 42), lines
    steps = [errors_of(host, lines)[0].partition("after step ")[2] for host in range(2)]
    assert steps[0] == steps[1]
    assert int(steps[0]) > 5
    assert "stopped by SIGTERM on host 1 (process" in errors_of(0, lines)[0]


def test_when_host_0_is_killed_the_other_says_so_and_ends_with_1():
    """Though JAX aborts it, since the coordination service is gone."""
    ends, code, lines = small_pod("kill", 0)
    assert (ends, code) == ([-9, 1], 1), lines
    assert "error: host 0 (process" in errors_of(1, lines)[-1]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "who"), [(2, 1), (4, 2)])
def test_a_killed_host_is_named_by_the_others_which_end_with_1(count, who):
    ends, code, lines = small_pod("kill", who, count=count)
    assert ends == [-9 if host == who else 1 for host in range(count)], lines
    assert code == 1
    for host in set(range(count)) - {who}:
        assert f"error: host {who} (process" in errors_of(host, lines)[-1]
        assert "HEARTBEAT_TIMEOUT = 20" in errors_of(host, lines)[-1]


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 2])
def test_a_frozen_host_is_lost_too(who):
    ends, code, lines = small_pod("freeze", who, count=3, grace=30)
    assert ends == [-9 if host == who else 1 for host in range(3)], lines
    assert code == 1
    for host in set(range(3)) - {who}:
        assert f"error: host {who} (process" in errors_of(host, lines)[-1]


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 2])
def test_a_fault_of_one_host_ends_all_with_its_message(who):
    ends, _, lines = small_pod("fault", who, count=3)
    assert ends == [1, 1, 1], lines
    for host in range(3):
        assert "a shard is damaged" in errors_of(host, lines)[-1]
        assert host == who or f"host {who} (process" in errors_of(host, lines)[-1]


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 5])
def test_a_host_that_is_slower_than_the_timeout_is_waited_for(step):
    """It lives, though its steps take long: at the first, when the processes are connected, and later."""
    ends, _, lines = small_pod("sleep", 1, step, timeout=10)
    assert ends == [0, 0], lines
    assert sum("sum 6" in line for line in lines) == 2 * 200
