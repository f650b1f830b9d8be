"""Hosts that watch each other over a board in memory: threads of one process, each with a watch of its own."""

import itertools
import threading
import time

import pytest

from t5x_instruct.common.errors import HostEnded
from t5x_instruct.common.watch import Watch

TIMEOUT = 1.0


class MemoryBoard:
    """What the coordination service's store does, until it is gone."""

    def __init__(self, count):
        self.values, self.lock, self.count, self.barriers = {}, threading.Lock(), count, {}
        self.silent = set()

    def of(self, host):
        return HostBoard(self, host)

    def meet(self, name):
        with self.lock:
            barrier = self.barriers.setdefault(name, threading.Barrier(self.count))
        barrier.wait(60)


class HostBoard:
    """One host's way to it; that of a silent host leads nowhere."""

    def __init__(self, shared, host):
        self.shared, self.host = shared, host

    def _check(self):
        if self.host in self.shared.silent or "board" in self.shared.silent:
            raise RuntimeError("UNAVAILABLE")

    def write(self, key, value):
        self._check()
        with self.shared.lock:
            self.shared.values[key] = value

    def read(self, folder):
        self._check()
        with self.shared.lock:
            return {key.removeprefix(folder): v for key, v in self.shared.values.items() if key.startswith(folder)}

    def meet(self, name):
        self.shared.meet(name)


class Pod:
    """Watches of several hosts that have started."""

    def __init__(self, count, timeout=TIMEOUT):
        self.board, self.ends = MemoryBoard(count), [threading.Event() for _ in range(count)]
        self.codes = [None] * count
        self.watches = [
            Watch(self.board.of(host), host, count, timeout, end=lambda code, host=host: self._end(host, code))
            for host in range(count)
        ]
        self.on_all(lambda watch: watch.start())

    def _end(self, host, code):
        self.codes[host] = code
        self.ends[host].set()

    def on_all(self, call, hosts=None):
        threads = [
            threading.Thread(target=call, args=(self.watches[host],)) for host in hosts or range(len(self.watches))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture
def pod():
    made = []

    def make(*args):
        made.append(Pod(*args))
        return made[-1]

    yield make
    for one in made:
        for watch in one.watches:
            watch._closed = True


@pytest.mark.parametrize("lost", [1, 2])
def test_a_silent_host_is_named_on_every_other_host_and_ends_it(pod, lost, capfd):
    three = pod(3)
    three.board.silent.add(lost)
    for host in {0, 1, 2} - {lost}:
        assert three.watches[host].wait_for_verdict() is not None
        assert f"host {lost} (process" in str(three.watches[host].verdict)
        assert "HEARTBEAT_TIMEOUT = 1" in str(three.watches[host].verdict)
        assert three.ends[host].wait(60), "a main thread that waits for ever must not keep the process"
        assert three.codes[host] == 1
    assert f"error: host {lost} (process" in capfd.readouterr().err


def test_when_host_0_and_its_board_are_gone_the_others_name_it(pod):
    three = pod(3)
    three.board.silent.add("board")
    for watch in three.watches[1:]:
        assert "host 0 (process" in str(watch.wait_for_verdict())


@pytest.mark.parametrize(("code", "text"), [(1, "ended with exit code 1: no disk"), (42, "was stopped: no disk")])
def test_a_host_that_ends_tells_the_others_how(pod, code, text):
    three = pod(3, 30.0)
    three.watches[2].leave(code, "no disk")
    for watch in three.watches[:2]:
        ended = watch.wait_for_verdict()
        assert isinstance(ended, HostEnded)
        assert ended.exit_code == code
        assert "host 2 (process" in str(ended)
        assert text in str(ended)


def test_the_first_end_is_told_and_not_what_followed_from_it(pod):
    three = pod(3, 30.0)
    three.watches[1].leave(1, "no disk")
    assert three.watches[2].wait_for_verdict() is not None
    three.watches[2].leave(1, str(three.watches[2].verdict))
    assert "host 1 (process" in str(three.watches[0].wait_for_verdict())


def test_hosts_that_are_asked_at_different_steps_stop_after_the_same(pod):
    four, stopped = pod(4, 30.0), {}

    def work(watch):
        host = four.watches.index(watch)
        for step in itertools.count(1):
            time.sleep(0.002 * (1 + host))  # the first are far ahead of the last
            if host == 3 and step == 5:
                watch.ask_to_stop("SIGTERM")
            why = watch.stop_after(step)
            if why:
                stopped[host] = (step, why)
                return

    four.on_all(work)
    assert len(stopped) == 4
    assert len(set(stopped.values())) == 1
    assert stopped[0][0] > 5
    assert "SIGTERM on host 3 (process" in stopped[0][1]


def test_hosts_that_are_done_wait_for_the_last_and_are_watched_no_longer(pod):
    two, done = pod(2), []

    def finish(watch):
        if watch is two.watches[1]:
            time.sleep(0.2)
            done.append("slow")
        watch.finish()
        done.append("over")

    two.on_all(finish)
    assert done == ["slow", "over", "over"]
    two.board.silent.add("board")
    time.sleep(2 * TIMEOUT)
    assert two.watches[0].verdict is None
    assert two.codes == [None, None]
