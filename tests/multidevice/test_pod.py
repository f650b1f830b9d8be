"""Whole training runs on a pod of this machine: stopped, killed, started again, on as many hosts or on others.

pytest -m slow tests/multidevice/test_pod.py
"""

import json
import os
import random
import re
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from t5x_instruct.cloud.local_pod import LocalPod, PodRun
from tests.e2e.test_train import STEPS, assert_same_run, final_state, settings

pytestmark = pytest.mark.slow
CHECKOUT = Path(__file__).parents[2]
KILLS = 10
TIMEOUT = 30.0


class Pod:
    """One pod and its output.

    Args:
        hosts: processes.
        devices: of each.
        arguments: of `train`.
        restart: start again after faults.
    """

    def __init__(self, hosts, devices, arguments, restart=False):
        command = [sys.executable, "-m", "t5x_instruct.cli.main", "train", *arguments]
        environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
        pod = LocalPod(
            hosts, devices, restart=restart, max_failures=100, backoff_seconds=0.1, healthy_seconds=0, grace_seconds=90
        )
        self.lines = []
        self.pod = PodRun(pod, command, self.lines.append, environment)
        self.thread = threading.Thread(target=self._run)
        self.code = None

    def _run(self):
        self.code = self.pod.run()

    def start(self):
        self.thread.start()
        return self

    def end(self):
        self.thread.join()
        return self.code

    def wait_for(self, pattern, after=0):
        """Waits for a line like `pattern`, of those after the first `after` ones; False if the pod ends before."""
        while not any(re.search(pattern, line) for line in self.lines[after:]):
            if not self.thread.is_alive():
                return False
            time.sleep(0.05)
        return True

    def shown(self):
        return "\n".join(line for line in self.lines if "[Gloo]" not in line)[-6000:]


def run_settings(model_dir, prepared_root):
    return settings(model_dir, prepared_root, BATCH_SIZE=8, HEARTBEAT_TIMEOUT=TIMEOUT, EVAL_EXAMPLES=2)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, prepared_root):
    model_dir = tmp_path_factory.mktemp("unbroken")
    pod = Pod(4, 2, run_settings(model_dir, prepared_root)).start()
    assert pod.end() == 0, pod.shown()
    return model_dir


def test_a_run_s_folder_is_written_once(unbroken):
    records = [json.loads(line) for line in open(unbroken / "metrics.jsonl")]
    assert [record["step"] for record in records if record["kind"] == "train"] == list(range(1, STEPS + 1))
    assert len(list(unbroken.glob("events.out.tfevents*"))) == 1
    assert (unbroken / "report.html").exists()
    assert json.loads((unbroken / "manifest.json").read_text())["environment"]["hosts"] == 4


def run_and_kill(model_dir, prepared_root, draw, most_kills):
    """Runs to the end, through so many kills if it lasts long enough; returns which hosts were killed."""
    pod = Pod(4, 2, run_settings(model_dir, prepared_root), restart=True).start()
    killed, after = [], 0
    # From these lines on, so that kills fall into steps, saves and evaluation and not all into imports.
    while len(killed) < most_kills and pod.wait_for(r"\[0\] (step |going on|scoring)", after):
        time.sleep(draw.uniform(0, 4))
        after, host = len(pod.lines), draw.randrange(4)
        process = pod.pod.processes[host]
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed.append(host)
            pod.wait_for("pod: the hosts ended with", after)
            after = len(pod.lines)
    assert pod.end() == 0, pod.shown()
    return killed


def test_ten_killed_hosts_and_nothing_lost(unbroken, prepared_root, tmp_path):
    draw, killed, runs = random.Random(3), [], 0
    while len(killed) < KILLS:
        folder = tmp_path / f"run{runs}"
        killed += run_and_kill(folder, prepared_root, draw, KILLS - len(killed))
        assert_same_run(unbroken, folder)
        runs += 1
    print(f"killed hosts {killed} of {runs} runs")


def test_a_signal_to_one_host_saves_on_all_and_another_number_of_hosts_goes_on(unbroken, prepared_root, tmp_path):
    arguments = run_settings(tmp_path, prepared_root)
    pod = Pod(4, 2, arguments).start()
    assert pod.wait_for(r"\[0\] step"), pod.shown()
    pod.pod.processes[2].send_signal(signal.SIGTERM)
    assert pod.end() == 42, pod.shown()
    assert [process.returncode for process in pod.pod.processes] == [42] * 4
    stops = re.findall(r"\[\d\] error: stopped by SIGTERM on host 2 .* after step (\d+)", "\n".join(pod.lines))
    assert len(stops) == 4, pod.shown()
    assert len(set(stops)) == 1
    rest = Pod(2, 4, arguments).start()
    assert rest.end() == 0, rest.shown()
    assert any(f"going on from the checkpoint of step {stops[0]}" in line for line in rest.lines)
    # The same devices in the same mesh, but sums cross processes elsewhere.
    (state, data), (other, data_other) = final_state(unbroken), final_state(tmp_path)
    assert data == data_other
    for name, value in state.items():
        np.testing.assert_allclose(value, other[name], rtol=1e-4, atol=1e-5, err_msg=name)
