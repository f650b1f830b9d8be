"""Each host of a run knows of the others: that they live, how they ended, and at which step all stop.

The hosts meet on a board: the key-value store of JAX's own coordination service, which host 0 keeps. Everything here
happens in threads of its own, beside a main thread that may wait for a collective for ever, as one does when a host
that should take part is gone.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from t5x_instruct.common.errors import EXIT_FAULT, EXIT_RESUME, HostEnded

GRACE_SECONDS = 5.0  # for the main thread to end by itself, and for host 0 to wait for the others
_LONGEST_TICK = 1.0
_MOST_CHARACTERS = 500
_NAMES, _BEATS, _SAID, _PLACES = (f"t5x_instruct/{name}/" for name in ("names", "beats", "said", "places"))
_BEAT_0, _LOST, _LEFT, _STOP, _STOP_STEP = "beat", "lost/", "left/", "stop", "stop_step"
INTACT = "What is saved is intact, the same command goes on from it"


class Board(Protocol):
    """Where the hosts read what the others wrote. Every call fails when host 0 is gone."""

    def write(self, key: str, value: str) -> None:
        """Writes or overwrites a value."""

    def read(self, folder: str) -> Mapping[str, str]:
        """All values below `folder`, which ends in '/', by the rest of their keys."""

    def meet(self, name: str) -> None:
        """Returns when every host has called it."""


class HostName(NamedTuple):
    """A host as people find it.

    Attributes:
        host: its number in the run.
        pid: its process.
        machine: where that runs.
    """

    host: int
    pid: int
    machine: str

    def __str__(self) -> str:
        return f"host {self.host} (process {self.pid} on {self.machine})"


class Watch:
    """This host's part in the watch.

    Args:
        board: what the hosts share.
        index: of this host.
        count: of all.
        timeout: seconds without a sign of life after which a host is lost.
        end: ends this process, with an exit code, when its main thread cannot.
    """

    def __init__(self, board: Board, index: int, count: int, timeout: float, end: Callable[[int], object] = os._exit):
        self._board, self._index, self._count, self._timeout, self._end = board, index, count, timeout, end
        self._tick = min(_LONGEST_TICK, timeout / 10)
        self._changed = threading.Condition()
        self._names = [HostName(host, 0, "?") for host in range(count)]
        self._beats: dict[int, str] = {}
        self._seen: dict[int, float] = {}
        self._verdict: HostEnded | None = None
        self._lost: set[int] = set()
        self._leaving: tuple[int, str] | None = None
        self._left: set[int] = set()
        self._closed = False
        self._asked: str | None = None
        self._stop: str | None = None
        self._stop_step: int | None = None
        self._place = -1

    # The main thread's part.

    def start(self) -> None:
        """Waits for all hosts, learns their names and begins to watch."""
        self._board.write(f"{_NAMES}{self._index}", json.dumps([os.getpid(), socket.gethostname()]))
        self._board.meet("named")
        for host, name in self._board.read(_NAMES).items():
            self._names[int(host)] = HostName(int(host), *json.loads(name))
        self._seen = dict.fromkeys(range(self._count), time.monotonic())
        for target in (self._talk, self._judge):
            threading.Thread(target=target, name=f"hosts-{target.__name__}", daemon=True).start()

    def finish(self) -> None:
        """Waits until every host is done, and ends the watch."""
        self._board.meet("done")
        with self._changed:
            self._closed = True

    def leave(self, code: int, message: str) -> None:
        """Tells the others that this host ends, and how; host 0, which keeps the board, waits for them to go.

        The process ends a few times `GRACE_SECONDS` later at the latest, whatever it waits for.
        """
        if self._verdict is None:
            how = "was stopped" if code == EXIT_RESUME else f"ended with exit code {code}"
            message = f"{self._names[self._index]} {how}: {message}"
        with self._changed:
            self._leaving = (code, message[:_MOST_CHARACTERS])
            self._changed.notify_all()
        # In a thread, since a call may wait long for a host 0 that is gone.
        telling = threading.Thread(target=self._tell, args=self._leaving, name="hosts-leave", daemon=True)
        telling.start()
        telling.join(GRACE_SECONDS)

    @property
    def verdict(self) -> HostEnded | None:
        """What became of another host, if anything did."""
        return self._verdict

    def wait_for_verdict(self) -> HostEnded | None:
        """The same, after as long as it takes to notice that a host is lost."""
        with self._changed:
            self._changed.wait_for(lambda: self._verdict is not None, self._timeout + 3 * self._tick)
            return self._verdict

    def lost(self, host: int, how: str) -> HostEnded:
        """A host that said nothing before it was gone."""
        return HostEnded(f"{self._names[host]} is lost: {how}. {INTACT}", EXIT_FAULT)

    def ask_to_stop(self, why: str) -> None:
        """Asks all hosts to stop after one and the same step. May be called by a signal handler."""
        self._asked = self._asked or why

    def stop_after(self, step: int) -> str | None:
        """Whether all hosts stop after this step; every host asks this after each of its steps.

        Returns:
            Why, or None.
        """
        with self._changed:
            # From the moment this host has told its place until the step is known it must not go on.
            self._changed.wait_for(lambda: self._stop is None or self._stop_step is not None or self._verdict)
            self._place = step
            return self._stop if self._stop_step is not None and step >= self._stop_step else None

    @property
    def asked_to_stop(self) -> str | None:
        """Why this host was asked to stop, or another one, as far as it is known here."""
        return self._stop or self._asked

    # The thread that talks. A call may wait long for a host 0 that is gone.

    def _talk(self) -> None:
        beat = 0
        while not self._closed:
            beat += 1
            with contextlib.suppress(Exception):  # of the service's client: then the judge hears nothing new
                self._exchange(str(beat))
            time.sleep(self._tick)

    def _exchange(self, beat: str) -> None:
        self._board.write(_SAID + _BEAT_0 if self._index == 0 else f"{_BEATS}{self._index}", beat)
        for host in tuple(self._lost) if self._index == 0 else ():
            self._board.write(f"{_SAID}{_LOST}{host}", str(self._verdict))
        if self._asked is not None and self._stop is None:
            self._board.write(_SAID + _STOP, f"{self._asked} on {self._names[self._index]}")
        said = self._board.read(_SAID)
        beats = {int(host): value for host, value in self._board.read(_BEATS).items()} if self._index == 0 else {}
        self._hear(said, beats | {0: said.get(_BEAT_0, "")})
        self._agree(said)

    def _hear(self, said: Mapping[str, str], beats: Mapping[int, str]) -> None:
        with self._changed:
            for host, beat in beats.items():
                if self._beats.get(host) != beat:
                    self._beats[host], self._seen[host] = beat, time.monotonic()
            for key, value in said.items():
                if key.startswith(_LOST):
                    self._conclude(HostEnded(value, EXIT_FAULT))
                elif key.startswith(_LEFT) and int(key.removeprefix(_LEFT)) != self._index:
                    self._left.add(int(key.removeprefix(_LEFT)))
                    self._conclude(HostEnded(json.loads(value)[1], json.loads(value)[0]))
            self._changed.notify_all()

    def _agree(self, said: Mapping[str, str]) -> None:
        """All tell the last step they know of and go no further; host 0 names a step that none has reached."""
        if _STOP not in said or self._stop_step is not None:
            return
        with self._changed:
            self._stop = self._stop or said[_STOP]
            place = self._place  # which stays from now on
        self._board.write(f"{_PLACES}{self._index}", str(place))
        if self._index == 0 and _STOP_STEP not in said:
            places = self._board.read(_PLACES)
            if len(places) == self._count:
                self._board.write(_SAID + _STOP_STEP, str(max(map(int, places.values())) + 1))
        if _STOP_STEP in said:
            with self._changed:
                self._stop_step = int(said[_STOP_STEP])
                self._changed.notify_all()

    def _tell(self, code: int, message: str) -> None:
        with contextlib.suppress(Exception):  # of the service's client: host 0 is gone, there is nobody to tell
            self._board.write(f"{_SAID}{_LEFT}{self._index}", json.dumps([code, message]))
            while self._index == 0 and len(self._left | self._lost) < self._count - 1:
                time.sleep(self._tick / 4)
                self._hear(self._board.read(_SAID), {})

    # The thread that judges. It waits for nobody.

    def _judge(self) -> None:
        before = time.monotonic()
        while not self._closed:
            time.sleep(self._tick)
            now = time.monotonic()
            with self._changed:
                if now - before > self._tick + self._timeout / 4:  # this process was itself asleep
                    self._seen = dict.fromkeys(self._seen, now)
                before = now
                for host in range(self._count) if self._index == 0 else (0,):
                    silent = now - self._seen[host]
                    if host != self._index and host not in self._left | self._lost and silent > self._timeout:
                        how = f"no sign of life for {silent:.0f} s (HEARTBEAT_TIMEOUT = {self._timeout:g})"
                        self._lost.add(host)
                        self._conclude(self.lost(host, how))
                ending = self._verdict is not None or self._leaving is not None
            if ending:
                self._see_to_the_end()

    def _conclude(self, ended: HostEnded) -> None:
        if self._verdict is None and not self._closed:
            self._verdict = ended
            self._changed.notify_all()

    def _see_to_the_end(self) -> None:
        """Lets the main thread end by itself, which it cannot if it waits for a host that is gone."""
        with self._changed:
            self._changed.wait_for(lambda: self._leaving is not None, GRACE_SECONDS)
        if self._leaving is None and self._verdict is not None:
            print(f"error: {self._verdict}", file=sys.stderr, flush=True)
            self.leave(self._verdict.exit_code, str(self._verdict))
        else:
            time.sleep(2 * GRACE_SECONDS)
        if self._leaving is not None and not self._closed:
            self._closed = True
            self._end(self._leaving[0])
