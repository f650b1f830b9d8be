"""The startup script, really run, in a folder of its own: programs that it calls are small scripts on its PATH."""

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from t5x_instruct.cloud.archive import make_archive
from t5x_instruct.cloud.scripts import shutdown_script, startup_script
from tests import shell_scripts

ODD = "a b  'c' \"d\" $(touch hacked) `touch hacked` $HOME \\ ; touch hacked #* ~"
TOOLS = (
    *("bash", "cat", "chmod", "cp", "cut", "date", "env", "flock", "gzip", "head", "hostname", "mkdir", "rm", "sed"),
    *("sha256sum", "sleep", "tar", "tee", "touch", "tr"),
)
# The bucket is a folder; the metadata server is one too. The hosts' Python makes environments of scripts like these.
FAKES = {
    "gcloud": """
echo "gcloud $*" >>"$SANDBOX/calls"
[[ "$1 $2" == "storage cp" ]] || exit 0
if [[ -e "$SANDBOX/broken" ]]; then
  n=$(($(cat "$SANDBOX/broken") - 1))
  echo $n >"$SANDBOX/broken"
  ((n < 0)) || exit 1
fi
from="${4/gs:\\/\\//$SANDBOX/bucket/}" to="${5/gs:\\/\\//$SANDBOX/bucket/}"
mkdir -p "${to%/*}" && cp "$from" "$to"
""",
    "curl": """cat "$SANDBOX/metadata/${!###*/}" 2>/dev/null || exit 22""",
    "python3": """
if [[ "$1 $2" == "-m venv" ]]; then
  mkdir -p "$3/bin"
  printf '#!/bin/bash\\nexit 0\\n' >"$3/bin/python"
  cp "$SANDBOX/programs/uv" "$3/bin/uv"
  chmod +x "$3/bin/python"
fi
""",
    "uv": """
echo "uv $*" >>"$SANDBOX/calls"
case "$1" in
  venv) mkdir -p "$5/bin" && cp "$SANDBOX/programs/t5x-instruct" "$5/bin/" ;;
  pip) pwd >>"$SANDBOX/calls" ;;
esac
""",
    # Ends with the codes of a file, one a run; and first tells what it was given.
    "t5x-instruct": """
printf '%s\\0' "$@" >"$SANDBOX/arguments"
env -0 >"$SANDBOX/environment"
pwd >"$SANDBOX/folder"
echo run >>"$SANDBOX/runs"
[[ ! -e "$LAUNCH_TEMPORARY/libtpu_lockfile" ]] || echo locked >>"$SANDBOX/runs"
read -r code <"$SANDBOX/codes" && sed -i 1d "$SANDBOX/codes"
if [[ "$code" == wait ]]; then
  trap 'echo saved >>"$SANDBOX/runs"; exit 42' TERM
  touch "$SANDBOX/waiting"
  while true; do sleep 0.02; done
fi
exit "$code"
""",
}


class Host:
    """One host in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.programs, self.state, self.bucket = folder / "programs", folder / "state", folder / "bucket"
        for path in (self.programs, folder / "metadata", folder / "tmp"):
            path.mkdir()
        for name, text in FAKES.items():
            (self.programs / name).write_text(f"#!/bin/bash\n{text.lstrip()}")
            (self.programs / name).chmod(0o755)
        for name in TOOLS:
            if not (self.programs / name).exists():
                (self.programs / name).symlink_to(str(shutil.which(name)))
        self.script = folder / "startup.sh"
        self.environment = {
            "PATH": str(self.programs),
            "SANDBOX": str(folder),
            "HOME": str(folder),
            "LAUNCH_STATE": str(self.state),
            "LAUNCH_RUN": str(folder / "run"),
            "LAUNCH_TEMPORARY": str(folder / "tmp"),
            "LAUNCH_METADATA": "http://metadata",
            "LAUNCH_FETCH_SECONDS": "0",
            "LAUNCH_FETCH_ATTEMPTS": "3",
            "LAUNCH_BACKOFF_SECONDS": "0",
            "LAUNCH_GRACE_SECONDS": "0",
            "LAUNCH_COPY_SECONDS": "1",
        }

    def install(self, settings, seconds=3600):
        archive = make_archive("MODEL_DIR = 'gs://x'\n", [], lock="jax==0.10.2\n", checkout=checkout(self.folder))
        delete = ["gcloud", "delete", "--name=x y"]
        self.script.write_text(startup_script(settings, archive.sha256, delete, seconds))
        code = self.bucket / settings.root.removeprefix("gs://") / "code"
        code.mkdir(parents=True)
        (code / f"{archive.sha256}.tar.gz").write_bytes(archive.data)
        self.root = code.parent
        return archive

    def codes(self, *codes):
        (self.folder / "codes").write_text("".join(f"{code}\n" for code in codes))
        (self.folder / "runs").write_text("")

    def boot(self):
        done = subprocess.run(
            ["/bin/bash", self.script], env=self.environment, capture_output=True, text=True, cwd=self.folder
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self):
        return subprocess.Popen(
            ["/bin/bash", self.script], env=self.environment, stdout=subprocess.DEVNULL, cwd=self.folder
        )

    def wait_for(self, name):
        for _ in range(1000):
            if (self.folder / name).exists():
                return
            time.sleep(0.01)
        raise AssertionError(f"{name} has not appeared")

    @property
    def runs(self):
        return (self.folder / "runs").read_text().split()

    def status(self, place="slice0-host0"):
        return (self.root / "status" / place).read_text().split()[:3]

    def calls(self):
        return (self.folder / "calls").read_text().splitlines()

    def given(self, name):
        return (self.folder / name).read_bytes().decode().split("\0")[:-1]


def checkout(folder: Path) -> Path:
    root = folder / "checkout"
    root.mkdir(exist_ok=True)
    (root / "setup.py").write_text("")
    return root


@pytest.fixture
def settings(settings):
    return functools.partial(settings, accelerator="v5e-8")


@pytest.fixture
def host(tmp_path: Path):
    made = Host(tmp_path)
    yield made
    guard = tmp_path / "run" / "guard"
    if guard.exists():  # started by the script, to outlive it
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(guard.read_text()), signal.SIGKILL)


@pytest.mark.parametrize(
    ("codes", "runs", "end"),
    [
        ([0], 1, ["done", "0"]),
        ([42, 42, 0], 3, ["done", "0"]),
        ([1, 137, 0], 3, ["done", "0"]),
        ([2], 1, ["refused", "2"]),
        ([1, 1, 1, 1], 3, ["gave_up", "1"]),
        ([42, 1, 42, 1, 42, 139], 6, ["gave_up", "139"]),
    ],
    ids=str,
)
def test_the_restart_loop_reads_the_exit_codes(host, settings, codes, runs, end):
    host.install(settings(max_failures=2))
    host.codes(*codes)
    text = host.boot()
    assert host.runs == ["run"] * runs
    assert host.status() == ["slice0-host0", *end]
    (log,) = (host.root / "logs").iterdir()
    assert log.name.startswith("slice0-host0-")
    assert text.splitlines()[-2] in log.read_text()
    assert not any("delete" in call for call in host.calls())


def test_waits_double_up_to_ten_minutes(host, settings):
    host.install(settings(max_failures=7))
    host.environment["LAUNCH_BACKOFF_SECONDS"] = "30"
    (host.programs / "sleep").unlink()
    (host.programs / "sleep").write_text('#!/bin/bash\necho "$1" >>"$SANDBOX/sleeps"\n')
    (host.programs / "sleep").chmod(0o755)
    host.codes(*[1] * 8)
    # Without a guard: its own waiting would be among the sleeps.
    host.script.write_text(host.script.read_text().replace("\n  start_guard\n", "\n"))
    host.boot()
    assert (host.folder / "sleeps").read_text().split() == ["30", "60", "120", "240", "480", "600", "600"]


def test_a_second_boot_installs_nothing_and_goes_on(host, settings):
    archive = host.install(settings())
    host.codes(0)
    (host.folder / "tmp" / "libtpu_lockfile").touch()
    host.boot()
    assert host.runs == ["run"]  # and the stale lock was gone before it
    installed = [call for call in host.calls() if call.startswith("uv")]
    assert installed[0].startswith("uv --version") or installed[0].startswith("uv venv")
    assert any("--constraint constraints.txt --editable .[tpu]" in call for call in installed)
    assert str(host.state / f"code-{archive.sha256}") in host.calls()
    assert any("--python 3.12" in call for call in installed)
    (host.root / "code" / f"{archive.sha256}.tar.gz").unlink()  # it is here already
    host.codes(0)
    host.boot()
    assert host.runs == ["run"]
    assert [call for call in host.calls() if call.startswith("uv")] == installed


def test_a_fetch_that_fails_is_tried_again(host, settings):
    host.install(settings())
    host.codes(0)
    (host.folder / "broken").write_text("3")  # the first status, and two fetches
    assert "attempt 2 of 3" in host.boot()
    assert host.status()[1] == "done"


def test_a_damaged_archive_is_never_run(host, settings):
    archive = host.install(settings())
    host.codes(0)
    (host.root / "code" / f"{archive.sha256}.tar.gz").write_bytes(b"something else")
    assert "cannot be fetched" in host.boot()
    assert host.runs == []
    assert host.status() == ["slice0-host0", "gave_up", "1"]


def test_odd_values_reach_the_program_as_they_are(host, settings):
    odd = settings(bucket=f"gs://bucket/{ODD.replace('*', '').replace('#', '')}", env={"ODD": ODD, "OTHER": "x=y\nz"})
    host.install(odd)
    host.codes(0)
    host.boot()
    environment = dict(value.split("=", 1) for value in host.given("environment"))
    assert environment["ODD"] == ODD
    assert environment["OTHER"] == "x=y\nz"
    assert environment["JAX_COMPILATION_CACHE_DIR"] == f"{odd.bucket}/compile_cache"
    assert environment["LIBTPU_INIT_ARGS"] == odd.libtpu_flags
    assert host.given("arguments") == ["train", "--gin_file=run.gin"]
    folder = Path((host.folder / "folder").read_text().strip())
    assert (folder / "run.gin").read_text() == "MODEL_DIR = 'gs://x'\n"
    assert host.status()[1] == "done"
    assert not list(host.folder.rglob("hacked"))


def test_a_single_host_joins_nobody(host, settings):
    host.install(settings())
    host.codes(0)
    host.boot()
    assert not any(value.startswith("T5X_INSTRUCT_COORDINATOR") for value in host.given("environment"))


@pytest.mark.parametrize(
    "endpoints", ["unknown:unknown:10.0.0.7,unknown:unknown:10.0.0.8", "10.0.0.7,10.0.0.8"], ids=["triples", "names"]
)
def test_hosts_of_several_slices_find_each_other(host, settings, endpoints):
    (host.folder / "metadata" / "worker-network-endpoints").write_text(endpoints)
    (host.folder / "metadata" / "agent-worker-number").write_text("1")
    tables = ["", "ACCELERATOR: 'v5e'\nMEGASCALE_NUM_SLICES: '3'\nMEGASCALE_SLICE_ID: '2'\n"]
    tables[1] += "MEGASCALE_COORDINATOR_ADDRESS: '10.0.0.1:8080'\n"
    host.install(settings(accelerator="v5e-16"))
    for table, place, expected in zip(
        tables,
        ["slice0-host1", "slice2-host1"],
        [("10.0.0.7:8476", "2", "1"), ("10.0.0.1:8476", "6", "5")],
        strict=True,
    ):
        (host.folder / "metadata" / "tpu-env").write_text(table)
        host.codes(0)
        host.boot()
        environment = dict(value.split("=", 1) for value in host.given("environment"))
        names = ("T5X_INSTRUCT_COORDINATOR", "T5X_INSTRUCT_NUM_HOSTS", "T5X_INSTRUCT_HOST")
        assert tuple(environment[name] for name in names) == expected
        assert host.status(place)[1] == "done"


def test_a_host_that_does_not_learn_of_its_peers_does_not_go_alone(host, settings):
    host.install(settings(accelerator="v5e-16"))
    host.codes(0)
    assert "the metadata do not tell the hosts of this slice" in host.boot()
    assert host.runs == []
    assert host.status()[1] == "gave_up"


def test_stopped_on_request_and_gone_on_with(host, settings):
    host.install(settings())
    host.codes("wait")
    process = host.start()
    host.wait_for("waiting")
    (host.state / "stop").touch()
    os.kill(int((host.state / "pid").read_text()), signal.SIGTERM)
    assert process.wait(10) == 0
    assert host.runs == ["run", "saved"]
    assert host.status() == ["slice0-host0", "stopped", "42"]
    (host.state / "stop").unlink()
    host.codes(0)
    host.boot()
    assert host.status() == ["slice0-host0", "done", "0"]


def test_a_signal_to_the_script_lets_the_program_save(host, settings):
    host.install(settings())
    host.codes("wait", 0)
    process = host.start()
    host.wait_for("waiting")
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert host.runs == ["run", "saved", "run"]  # 42 is 42: it goes on at once


def test_a_host_that_goes_away_saves_and_starts_nothing(host, settings):
    host.install(settings())
    host.codes("wait", 0)
    process = host.start()
    host.wait_for("waiting")
    shutdown = host.folder / "shutdown.sh"
    shutdown.write_text(shutdown_script())
    subprocess.run(["/bin/bash", shutdown], env=host.environment, check=True)
    assert process.wait(10) == 0
    assert host.runs == ["run", "saved"]
    assert host.status() == ["slice0-host0", "interrupted", "42"]


def test_only_one_is_at_work(host, settings):
    host.install(settings())
    host.codes("wait")
    process = host.start()
    host.wait_for("waiting")
    assert "already at work" in host.boot()
    (host.state / "stop").touch()
    process.terminate()
    assert process.wait(10) == 0
    assert host.runs == ["run", "saved"]


def test_success_gives_the_slice_back_where_asked_and_from_host_0_only(host, settings):
    host.install(settings(delete_on_success=True))
    host.codes(0)
    host.boot()
    assert "gcloud delete --name=x y" in host.calls()
    (host.folder / "calls").unlink()
    (host.folder / "metadata" / "worker-network-endpoints").write_text("a,b")
    (host.folder / "metadata" / "agent-worker-number").write_text("1")
    host.codes(0)
    host.boot()
    assert not any("delete" in call for call in host.calls())


def test_when_its_time_is_over_the_slice_is_deleted_even_after_a_failure(host, settings):
    host.install(settings(), seconds=0)
    host.codes(2)
    host.boot()
    for _ in range(500):
        if any("delete" in call for call in host.calls()):
            break
        time.sleep(0.01)
    assert "gcloud delete --name=x y" in host.calls()
    assert host.status() == ["slice0-host0", "refused", "2"]


@pytest.mark.parametrize("name", ["startup.sh", "shutdown.sh"])
def test_the_scripts_are_clean(name, settings, tmp_path):
    script = tmp_path / name
    script.write_text(startup_script(settings(), "0" * 64, ["true"], 1) if name == "startup.sh" else shutdown_script())
    shell_scripts.check(script)
