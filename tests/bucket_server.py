"""A bucket on this machine: gcp-storage-emulator, with what Cloud Storage does and the emulator leaves out.

The emulator (2026.7) knows no preconditions, does not tell an object's generation when it is read, refuses empty
objects, answers a range past the end with a wrong header, and writes its whole catalogue anew at each change.
"""

import contextlib
import json
import logging
import threading
from collections import Counter
from functools import partial
from http.server import HTTPServer
from urllib.parse import parse_qs, unquote, urlparse

from gcp_storage_emulator import server
from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.storage import Storage

logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)  # it logs each object that is not there
PAGE = 5  # objects in an answer; 1,000 at Google
# Buckets in which everybody may read objects, and nobody may list them, write, or hear that one is absent.
PUBLIC: set[str] = set()

_read_data = server._read_data


def _read_even_nothing(handler, query):
    data = _read_data(handler, query)
    return b"" if data is None and "uploadType" in query else data


server._read_data = _read_even_nothing


class _Memory(Storage):
    """A storage that keeps nothing on a disk.

    Attributes:
        asked: how often the content of each object was asked for.
    """

    asked: Counter[str]

    def _write_config_to_file(self):
        pass


class _Handler(server.RequestHandler):
    def _object(self):
        """Bucket and name that a request is for, as (bucket, name, query)."""
        url = urlparse(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        bucket, _, rest = url.path.partition("/b/")[2].partition("/o")
        return bucket, query.get("name") or unquote(rest.removeprefix("/")), query

    def _fails(self, code):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = json.dumps({"error": {"code": code, "message": f"error {code}"}}).encode()
        self._answer(code, content)

    def _answer(self, code, content):
        self.send_response(code)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(content)))
        super().end_headers()
        self.wfile.write(content)

    def _refused(self):
        """Whether a precondition does not hold; then the answer is sent."""
        bucket, name, query = self._object()
        wanted = query.get("ifGenerationMatch")
        there = self.storage.objects.get(bucket, {}).get(name, {}).get("generation", "0")
        if wanted is not None and wanted != there:
            self._fails(412)
        return wanted is not None and wanted != there

    def do_POST(self):
        if self._object()[0] in PUBLIC:
            self._fails(403)
        elif not self._refused():
            super().do_POST()

    def do_GET(self):
        bucket, name, query = self._object()
        self.storage.asked[name] += query.get("alt") == "media"
        first = (self.headers.get("Range") or "").removeprefix("bytes=").partition("-")[0]
        there = self.storage.objects.get(bucket, {}).get(name)
        if bucket in PUBLIC and not there:
            self._fails(403)
        elif there and first.isdecimal() and int(first) >= int(there["size"]):
            self._fails(416)
        elif "startOffset" in self.path or "endOffset" in self.path:
            self._list()
        else:
            super().do_GET()

    def _list(self):
        bucket, _, query = self._object()
        if bucket not in self.storage.buckets:
            self._fails(404)
            return
        begin, end = max(query.get("startOffset", ""), query.get("pageToken", "")), query.get("endOffset")
        names = [n for n in sorted(self.storage.objects.get(bucket, {})) if n >= begin and (not end or n < end)]
        names = [name for name in names if name.startswith(query.get("prefix", ""))]
        page, rest = names[:PAGE], names[PAGE : PAGE + 1]
        answer = {"kind": "storage#objects", "items": [self.storage.objects[bucket][name] for name in page]}
        if rest:
            answer["nextPageToken"] = rest[0]
        self._answer(200, json.dumps(answer).encode())

    def do_DELETE(self):
        if self._object()[0] in PUBLIC:
            self._fails(403)
        elif not self._refused():
            super().do_DELETE()

    def end_headers(self):
        bucket, name, query = self._object()
        there = self.storage.objects.get(bucket, {}).get(name)
        if self.command == "GET" and query.get("alt") == "media" and there:
            self.send_header("x-goog-generation", there["generation"])
        super().end_headers()


class _Server(HTTPServer):
    request_queue_size = 128  # with five, of many requests at once some wait a second to be heard again


@contextlib.contextmanager
def bucket_server(*buckets):
    """Runs a server with empty buckets.

    Yields:
        Its address, for `TENSORSTORE_GCS_HTTP_URL`, and its storage.
    """
    storage = _Memory(use_memory_fs=True)
    storage.asked = Counter()
    for name in buckets:
        create_bucket(name, storage)
        storage.buckets[name]["softDeletePolicy"]["retentionDurationSeconds"] = "0"
    http = _Server(("127.0.0.1", 0), partial(_Handler, storage))
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}", storage
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
