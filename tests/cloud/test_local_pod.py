"""Starting, ending and starting again the processes of a pod on this machine; what runs are scripts of a line."""

import os
import signal
import sys
import threading
import time

import pytest

from t5x_instruct.cloud.local_pod import LocalPod, PodRun, main
from t5x_instruct.common.errors import ConfigError

HOST = "import os, sys, time, pathlib; host = int(os.environ['T5X_INSTRUCT_HOST'])\n"


def pod_run(script, **settings):
    lines = []
    command = [sys.executable, "-S", "-c", HOST + script]
    return PodRun(LocalPod(**{"hosts": 3, "grace_seconds": 20} | settings), command, lines.append), lines


def test_each_process_is_told_its_place_and_its_lines_carry_it():
    run, lines = pod_run(
        "print(os.environ['T5X_INSTRUCT_COORDINATOR'], os.environ['T5X_INSTRUCT_NUM_HOSTS'])\n"
        "print(os.environ['XLA_FLAGS'].split()[-1], os.environ['JAX_PLATFORMS'], file=sys.stderr)",
        devices_per_host=2,
    )
    assert run.run() == 0
    coordinators = {line.split()[1] for line in lines if "127.0.0.1:" in line}
    assert len(coordinators) == 1
    for host in range(3):
        assert f"[{host}] {coordinators.copy().pop()} 3" in lines
        assert f"[{host}] --xla_force_host_platform_device_count=2 cpu" in lines


@pytest.mark.parametrize(
    ("codes", "worst"), [((0, 42, 42), 42), ((42, 0, 1), 1), ((1, 42, 2), 2), ((0, 7, 42), 1), ((0, 0, 0), 0)]
)
def test_the_exit_code_is_the_worst_one(codes, worst):
    assert pod_run(f"sys.exit({codes}[host])")[0].run() == worst


def test_a_killed_host_is_a_fault_and_those_that_stay_too_long_are_killed():
    run, lines = pod_run("os.kill(os.getpid(), 9) if host == 1 else time.sleep(60)", grace_seconds=0.3)
    started = time.monotonic()
    assert run.run() == 1
    assert time.monotonic() - started < 50
    assert "pod: host 1 ended with SIGKILL; the others follow" in lines
    assert any("hosts [0, 2] did not end within 0.3 s and are killed" in line for line in lines)


def test_the_others_may_end_by_themselves():
    run, lines = pod_run("time.sleep(0.1 if host == 1 else 0.6); print('over'); sys.exit(1 if host == 1 else 42)")
    assert run.run() == 1
    assert {"[0] over", "[1] over", "[2] over"} <= set(lines)
    assert lines[-1] == "pod: the hosts ended with exit code 42, exit code 1, exit code 42"


def counting(path, codes):
    """Each start of host 0 ends with the next of the codes."""
    return (
        f"starts = pathlib.Path({str(path)!r})\n"
        "number = len(starts.read_text()) if starts.exists() else 0\n"
        "host or starts.write_text('.' * (number + 1))\n"
        f"sys.exit(0 if host else {codes}[number])"
    )


@pytest.mark.parametrize(
    ("codes", "restart", "starts", "code"),
    [
        ((42, 42, 1, 0), True, 4, 0),
        ((1, 2, 0), True, 2, 2),
        ((1, 1, 1, 0), True, 3, 1),
        ((42, 0), False, 1, 42),
    ],
)
def test_it_starts_again_as_a_launch_does(tmp_path, codes, restart, starts, code):
    script = counting(tmp_path / "starts", codes)
    run, _ = pod_run(script, hosts=2, restart=restart, max_failures=2, backoff_seconds=0.01)
    assert run.run() == code
    assert len((tmp_path / "starts").read_text()) == starts


def test_a_signal_reaches_every_host_and_ends_the_starts(tmp_path):
    run, lines = pod_run(
        "import signal\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved'), os._exit(42)))\n"
        "print('ready'); time.sleep(60)",
        restart=True,
    )
    thread = threading.Thread(target=run.run)
    thread.start()
    while sum("ready" in line for line in lines) < 3:
        time.sleep(0.05)
    run.stop(signal.SIGTERM)
    thread.join(60)
    assert not thread.is_alive()
    assert [process.returncode for process in run.processes] == [42, 42, 42]
    assert sum("ready" in line for line in lines) == 3


def test_numbers_that_make_no_pod_are_refused_together(capsys):
    with pytest.raises(ConfigError) as refused:
        LocalPod(hosts=0, devices_per_host=0)
    assert len(refused.value.problems) == 2
    assert main(["--hosts", "0", "--", "train"]) == 2
    assert "--hosts = 0" in capsys.readouterr().err


def test_what_is_run_is_the_command_line_with_its_arguments(capfd, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        assert main(["--hosts", "1", "--", "train", "--gin_file=nowhere.gin"]) == 2
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)
    assert "[0] error: " in capfd.readouterr().out
