"""Models of the hub, with a hub on this machine."""

import contextlib
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from t5x_instruct.checkpoints.convert import hf_hub
from t5x_instruct.checkpoints.restore import find_checkpoint
from t5x_instruct.common.errors import CheckpointError

COMMIT = "a" * 40
FILES = {
    "config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 49_152,  # the library keeps what came in pieces of 10 MiB
    "pytorch_model.bin": b"pickle",
    "onnx/model.safetensors": b"of another program",
    "tokenizer.json": b"{}",
}
PROBE = """
import json, sys
from pathlib import Path
from t5x_instruct.checkpoints.convert.hf_hub import download
from t5x_instruct.common.errors import CheckpointError
answers = []
for name in json.loads(sys.argv[1]):
    try:
        answers.append(str(download(name)))
    except CheckpointError as error:
        answers.append({"error": str(error)})
print("PROBE" + json.dumps(answers))
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """One model, `org/tiny`; the first download of its weights breaks off in the middle."""

    asked: list[tuple[str, str, str | None]]

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append((self.command, path, self.headers.get("Range")))
        if path.startswith("/api/models/org/gated"):
            self.send(403, {"X-Error-Code": "GatedRepo"})
        elif not path.startswith(("/api/models/org/tiny", "/org/tiny")):
            self.send(404, {"X-Error-Code": "RepoNotFound"})
        elif path.endswith("/revision/nope"):
            self.send(404, {"X-Error-Code": "RevisionNotFound"})
        elif "/tree/" in path:
            files = [{"type": "file", "path": n, "size": len(c), "oid": _hash(c)} for n, c in FILES.items()]
            self.send(200, {}, json.dumps(files).encode())
        elif path.startswith("/api/"):
            siblings = [{"rfilename": name} for name in FILES]
            model = {"id": "org/tiny", "sha": COMMIT, "private": False, "siblings": siblings}
            self.send(200, {}, json.dumps(model).encode())
        else:
            self.send_file(path.partition(f"/resolve/{COMMIT}/")[2])

    def send_file(self, name: str) -> None:
        content, etag = FILES[name], _hash(FILES[name])
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        first = sum(c == "GET" and p.endswith("/model.safetensors") for c, p, _ in self.asked) == 1
        cut = 11 << 20 if name == "model.safetensors" and self.command == "GET" and first else None
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send(206 if start else 200, headers, content[start:], cut)

    def send(self, status: int, headers: dict[str, str], content: bytes = b"", cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[:cut])


def _hash(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextlib.contextmanager
def hub() -> Iterator[tuple[str, list[tuple[str, str, str | None]]]]:
    """Address of a hub, and the list of what it is asked."""
    asked: list[tuple[str, str, str | None]] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Hub,), {"asked": asked}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def ask(names: list[str], address: str, home: Path, **environment: str) -> list[str | dict[str, str]]:
    """`download` of each name, in a process that knows only this hub."""
    more = {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **environment}
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    command = [sys.executable, "-c", PROBE, json.dumps(names)]
    done = subprocess.run(command, env=kept | more, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("PROBE")[2])


def error_of(answer: str | dict[str, str]) -> str:
    assert isinstance(answer, dict), answer
    return answer["error"]


def test_a_model_is_downloaded_once_and_then_found_without_a_network(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: extra `hf`")
    names = ["hf://org/tiny", "hf://org/tiny@nope", "hf://org/none", "hf://org/gated"]
    with hub() as (address, asked):
        found, *refused = ask(names, address, tmp_path)
    assert isinstance(found, str)
    folder = Path(found)
    assert {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == {
        name: FILES[name] for name in ("config.json", "model.safetensors", "tokenizer.json")
    }
    weights = [held for command, path, held in asked if command == "GET" and path.endswith("/model.safetensors")]
    assert len(weights) == 2
    assert (weights[1] or "").startswith(f"bytes={10 << 20}-")  # went on where it ended
    for answer, message in zip(refused, ["no revision 'nope'", "no model 'org/none'", "set HF_TOKEN"], strict=True):
        assert message in error_of(answer)
    again, other = ask(["hf://org/tiny", "hf://org/other"], address, tmp_path, HF_HUB_OFFLINE="1")
    assert again == found
    assert "HF_HUB_OFFLINE is set and the cache" in error_of(other)


def test_without_a_network_the_error_says_what_helps(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: extra `hf`")
    with hub() as (address, _):
        pass
    (answer,) = ask(["hf://org/tiny"], address, tmp_path)
    assert "the hub cannot be reached" in error_of(answer)
    assert "hf download org/tiny --local-dir FOLDER; then bring FOLDER here and name it hf:FOLDER" in error_of(answer)


@pytest.mark.parametrize(
    "name", ["hf://", "hf://a b/c", "hf://org/../x", "hf://org/name@", "hf://a/b/c", "hf://o/n@.."]
)
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="is named hf://ORG/NAME or hf://ORG/NAME@REVISION"):
        find_checkpoint(name)


def test_without_the_library_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install 't5x_instruct\[hf\]'"):
        hf_hub.download("hf://org/name")
