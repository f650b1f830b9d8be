"""TFDS datasets of a test's own: builders in a file, and their downloads on a server of this machine."""

import contextlib
import hashlib
import http.server
import importlib
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NOTES = [
    {"text": f"note {i}: Zoë", "label": i % 3 - 1, "tags": [{"name": f"t{j}", "weight": j} for j in range(i % 4)]}
    for i in range(40)
]
FEATURES = """{
                "text": tfds.features.Text(),
                "label": tfds.features.ClassLabel(names=["dull", "fine"]),
                "score": np.float32,
                "tags": tfds.features.Sequence({"name": tfds.features.Text(), "weight": np.int32}),
            }"""
BUILDER = """
class {name}(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = {manual!r}

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({features}))

    def _split_generators(self, dl_manager):
        return {{"train": self._generate_examples({path})}}

    def _generate_examples(self, path):
        for i, note in enumerate(json.loads(path.read_text())):
            yield i, note | {{"score": i / 10}}
"""
BY_HAND = "write to the archive\n    and put notes.json into the folder"


class Pages(http.server.BaseHTTPRequestHandler):
    """Serves the notes at any path that has 'notes', is silent at 'silent', and knows nothing else."""

    def do_GET(self) -> None:
        """Answers."""
        if "silent" in self.path:
            self.server.let_go.wait(30)  # type: ignore[attr-defined]
            return
        body = json.dumps(NOTES).encode() if "notes" in self.path else b""
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextlib.contextmanager
def server() -> Iterator[str]:
    """A server on this machine; gives its address."""
    pages = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    pages.let_go = threading.Event()  # type: ignore[attr-defined]
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{pages.server_address[1]}"
    finally:
        pages.let_go.set()  # type: ignore[attr-defined]
        pages.shutdown()
        pages.server_close()


def register(folder: Path, address: str, prefix: str) -> None:
    """Makes four datasets known to TFDS: {prefix}_here, {prefix}_lost (its file is gone), {prefix}_by_hand, and
    {prefix}_silent (its server never answers).
    """
    urls = {"here": f"{address}/notes.json", "lost": f"{address}/moved.json", "silent": f"{address}/silent"}
    for name, url in urls.items():
        _register(folder / name, f"{prefix}_{name}", f"dl_manager.download({url!r})", None, url)
    _register(folder / "by_hand", f"{prefix}_by_hand", 'dl_manager.manual_dir / "notes.json"', BY_HAND)


def _register(folder: Path, name: str, path: str, manual: str | None, url: str | None = None) -> None:
    folder.mkdir()
    imports = "import json\nimport numpy as np\nimport tensorflow_datasets as tfds\n"
    code = BUILDER.format(name=_class(name), manual=manual, path=path, features=FEATURES)
    (folder / f"{name}_builder.py").write_text(imports + code, encoding="utf-8")
    if url is not None:
        body = json.dumps(NOTES).encode()
        line = [url, str(len(body)), hashlib.sha256(body).hexdigest(), "notes.json"]
        (folder / "checksums.tsv").write_text("\t".join(line) + "\n", encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        importlib.import_module(f"{name}_builder")
    finally:
        sys.path.remove(str(folder))


def _class(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))
