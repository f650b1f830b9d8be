"""Whether addresses in the network are there, asked with a limit on how long it may take."""

import socket
import threading
import time
from collections.abc import Mapping, Sequence

ANSWER_SECONDS = 8.0
ALL_SECONDS = 20.0
PROBES = 16  # look-ups at a time
NOT_THERE = frozenset({404, 410})
NO_HOST = 0  # in place of an HTTP status: the host's name does not exist


def look_up(urls: Sequence[str], seconds: float = ANSWER_SECONDS, in_all: float = ALL_SECONDS) -> dict[str, int | None]:
    """Asks whether addresses are there, without reading what they give.

    Args:
        urls: the addresses.
        seconds: for each answer [s].
        in_all: for all of them [s]; what has not answered by then counts as silent.

    Returns:
        For each address its HTTP status; `NO_HOST`: its host's name does not exist; None: no answer.
    """
    answers: dict[str, int | None] = dict.fromkeys(urls)
    waiting = list(answers)
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                url = waiting.pop()
            answer = _answer(url, seconds)
            with lock:
                answers[url] = answer

    # Daemons, since the look-up of a name has no timeout and would keep the process from ending.
    workers = [threading.Thread(target=work, daemon=True) for _ in range(min(PROBES, len(answers)))]
    for worker in workers:
        worker.start()
    end = time.monotonic() + in_all
    for worker in workers:
        worker.join(max(0.0, end - time.monotonic()))
    with lock:
        waiting.clear()
        return dict(answers)


def _answer(url: str, seconds: float) -> int | None:
    import requests

    try:
        # One byte of a GET: servers of files often refuse HEAD.
        with requests.get(url, stream=True, timeout=seconds, headers={"Range": "bytes=0-0"}) as response:
            return response.status_code
    except requests.exceptions.ConnectionError as error:
        return NO_HOST if isinstance(_cause(error), socket.gaierror) else None
    except requests.exceptions.RequestException:
        return None


def _cause(error: BaseException) -> BaseException:
    """The error at the bottom of a chain; `requests` keeps it as an argument or a reason."""
    below = error.__cause__ or error.__context__ or getattr(error, "reason", None)
    if below is None and error.args and isinstance(error.args[0], BaseException):
        below = error.args[0]
    return error if below is None else _cause(below)


def there_is_a_network(answers: Mapping[str, int | None]) -> bool:
    """Whether any address that was looked up answered at all."""
    return any(answers.values())
