"""Files that grow on this machine's disk and are kept in a bucket, where nothing can be appended to."""

import logging
import shutil
import tempfile
import threading
import time
from pathlib import Path

from t5x_instruct.common.buckets import BucketPath
from t5x_instruct.common.errors import BucketError

SECONDS_BETWEEN = 30.0
_BUSY_SHARE = 0.05  # a file is uploaded whole: the larger it is, the more seldom

log = logging.getLogger(__name__)


class Upload:
    """A folder on the disk whose files are uploaded now and then, those that have grown.

    Args:
        target: the folder in the bucket.

    Attributes:
        folder: the folder on the disk; it goes when this is closed.
    """

    def __init__(self, target: BucketPath):
        self._target = target
        self.folder = Path(tempfile.mkdtemp(prefix="t5x_instruct_upload_"))
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upload", daemon=True)
        self._thread.start()

    def now(self) -> None:
        """Uploads what has grown, and returns when it is there.

        Raises:
            BucketError: it cannot be uploaded.
        """
        with self._lock:
            for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
                data = path.read_bytes()
                name = path.relative_to(self.folder).as_posix()
                if self._sizes.get(name) != len(data):
                    (self._target / name).write_bytes(data)
                    self._sizes[name] = len(data)

    def close(self) -> None:
        """Uploads the rest.

        Raises:
            BucketError: it cannot be uploaded; the folder then stays, and its name is in the message.
        """
        self._stop.set()
        self._thread.join()
        try:
            self.now()
        except BucketError as error:
            raise BucketError(f"{error}; what could not be uploaded lies in {self.folder}") from error
        shutil.rmtree(self.folder)

    def _run(self) -> None:
        wait = SECONDS_BETWEEN
        while not self._stop.wait(wait):
            began = time.monotonic()
            try:
                self.now()
            except BucketError as error:
                log.warning("not uploaded yet: %s", error)  # `now` and `close` say it again, as an error
            wait = max(SECONDS_BETWEEN, (time.monotonic() - began) / _BUSY_SHARE)
