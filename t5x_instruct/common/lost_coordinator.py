"""What happens to a host when host 0, with which JAX's coordination service lives, is gone.

JAX then aborts every other process within milliseconds, with a stack trace and no name. No thread can be faster, and
the callback that its client takes for this case cannot be called (jaxlib 0.10 to 0.12 cannot make its argument). What
can be had is the last word, since `abort` raises SIGABRT first; Python's own handlers run too late, so this one is
called by C.
"""

import ctypes
import os
import signal
import socket
from collections.abc import Callable

from t5x_instruct.common.errors import HostEnded

_CONNECT_SECONDS = 2.0
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
_installed: list[object] = []  # C has only a pointer to it


def when_host_0_is_gone(address: str, last_word: Callable[[], HostEnded]) -> None:
    """Lets an abort of this process that follows from the loss of host 0 end with a message and an exit code.

    An abort while host 0 answers has another cause, and stays what it is.

    Args:
        address: where the service listens, `host:port`.
        last_word: what to say, and the exit code.
    """
    libc = ctypes.CDLL(None)

    def on_abort(number: int) -> None:
        if _answers(address):
            libc.signal(number, signal.SIG_DFL.value)
            return
        ended = last_word()
        os.write(2, f"error: {ended}\n".encode())
        os._exit(ended.exit_code)

    handler = _Handler(on_abort)
    _installed.append(handler)
    libc.signal(int(signal.SIGABRT), handler)


def as_always() -> None:
    """Takes the handler away."""
    signal.signal(signal.SIGABRT, signal.SIG_DFL)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except OSError:
        return False
    return True
