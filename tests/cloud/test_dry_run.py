"""`launch ... --dry_run` from the command line, whole: golden files, which tell what a launch does.

To make them anew after a wanted change: T5X_INSTRUCT_REMAKE_GOLDEN=1 python -m pytest tests/cloud/test_dry_run.py
"""

import os
import re
import shlex
from pathlib import Path

import pytest

from t5x_instruct.cli.main import main

GOLDEN = Path(__file__).parent / "golden"
RUN = ["--gin_file=recipes/tiny_t5.gin", "--dry_run"]
LAUNCH = ["name=xl", "zone=us-west4-a", "bucket=gs://bucket/runs"]


def words(*settings):
    return [f"--gin.LaunchSettings.{setting}" for setting in [*LAUNCH, *settings]]


CASES = {
    "queued_spot": ["run", "--gin_file=launch/v5e_16_spot.gin", *words(), *RUN],
    "queued_reserved_slices": [
        "run",
        "--gin_file=launch/v5e_256_reserved_2_slices.gin",
        *words(
            "network=net",
            "subnetwork=sub",
            "internal_ips=True",
            "service_account=trainer@p.iam.gserviceaccount.com",
            "valid_until_duration=6h",
            "tags=('a','b')",
            "labels={'team': 'x'}",
            "delete_on_success=True",
            "price_per_chip_hour=2",
        ),
        *RUN,
    ],
    "group_spot": ["run", "--gin_file=launch/v6e_64_group.gin", *words("project=p-1"), *RUN],
    "group_reserved": [
        "create",
        "--gin_file=launch/tpu7x_4x4x4_reserved.gin",
        *words("project=p-1", "reservation=mine", "internal_ips=True", "subnetwork=sub"),
        *RUN,
    ],
    "status": ["status", "--gin_file=launch/v5e_16_spot.gin", *words(), "--dry_run"],
    "stop": ["stop", "--gin_file=launch/v5e_256_reserved_2_slices.gin", *words(), "--dry_run"],
    "delete_group": ["delete", "--gin_file=launch/v6e_64_group.gin", *words("project=p-1"), "--dry_run"],
    "logs_group": ["logs", "--gin_file=launch/v6e_64_group.gin", *words("project=p-1"), "--host=all", "--dry_run"],
}


@pytest.fixture
def without_gcloud(tmp_path, monkeypatch):
    (tmp_path / "programs").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    monkeypatch.setenv("T5X_INSTRUCT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "launch" / "xl"


def steady(text, folder):
    """Without what differs between machines and between versions of the code."""
    text = re.sub(r"\b[0-9a-f]{64}\b", "SHA256", text.replace(str(folder), "FILES"))
    return re.sub(r"# \d+ files, [\d.]+ MB", "# N files, N MB", text)


@pytest.mark.parametrize("case", CASES)
def test_golden(case, without_gcloud, capsys):
    assert main(["launch", *CASES[case]]) == 0
    text = steady(capsys.readouterr().out, without_gcloud)
    file = GOLDEN / f"{case}.txt"
    if os.environ.get("T5X_INSTRUCT_REMAKE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


def test_the_scripts_lie_ready_and_their_values_are_the_settings(without_gcloud, capsys):
    odd = "a 'b' $(c)"
    assert (
        main(
            [
                "launch",
                "create",
                "--gin_file=launch/v5e_16_spot.gin",
                *words(f"env={{'ODD': {odd!r}}}", "python=3.12"),
                *RUN,
            ]
        )
        == 0
    )
    script = (without_gcloud / "startup.sh").read_text()
    header = script.split("# Runs on each host")[0].splitlines()
    assert header[0] == "#!/usr/bin/env bash"
    values = dict(line.split("=", 1) for line in header[1:])
    assert shlex.split(values["ENVIRONMENT"].strip("()")) == [f"ODD={odd}"]
    assert values["MAX_SECONDS"] == str(72 * 3600)
    assert values["ROOT"] == "gs://bucket/runs/xl"
    assert "delete xl --zone=us-west4-a --force --quiet --async" in values["DELETE"]
    assert (without_gcloud / "shutdown.sh").read_text().startswith("#!")
    capsys.readouterr()


def test_the_run_is_checked_before_anything_is_asked_for(without_gcloud, capsys):
    wrong = ["--gin.BATCH_SIZE=x", "--gin.TRAIN_STEP=3", "--gin.LaunchSettings.slice=3"]
    assert main(["launch", "run", "--gin_file=launch/v5e_16_spot.gin", *words(), *RUN, *wrong]) == 2
    text = capsys.readouterr()
    assert text.out == ""
    for part in ("BATCH_SIZE", "unknown macro 'TRAIN_STEP'", "unknown parameter of LaunchSettings 'slice'"):
        assert part in text.err


def test_a_model_folder_on_the_hosts_own_disk_is_refused(without_gcloud, capsys):
    assert main(["launch", "run", "--gin_file=launch/v5e_16_spot.gin", *words(), *RUN, "--gin.MODEL_DIR=runs/x"]) == 2
    assert "MODEL_DIR = 'runs/x': the hosts have a disk each" in capsys.readouterr().err


def test_what_the_hosts_run_is_the_run_that_was_asked_for(without_gcloud, tmp_path, monkeypatch, capsys):
    import io
    import tarfile

    from t5x_instruct.config.validate import resolve

    monkeypatch.chdir(tmp_path)
    Path("my_tasks.py").write_text("")
    odd = "a \"b\" 'c' $(d) `e` \\ %"
    asked = [
        "--gin.TRAIN_STEPS=7",
        f"--gin.ModelSettings.vocabulary={odd!r}",
        "--gin.MIXTURE_OR_TASK_MODULE=my_tasks.py",
    ]
    assert main(["launch", "create", "--gin_file=launch/v5e_16_spot.gin", *words(), *RUN, *asked]) == 0
    with tarfile.open(fileobj=io.BytesIO((without_gcloud / "code.tar.gz").read_bytes())) as tar:
        tar.extract("run.gin", filter="data")
        assert "my_tasks.py" in tar.getnames()
    config = resolve(["run.gin"], verb="train")
    assert config.macros["TRAIN_STEPS"] == 7
    assert config.macros["MODEL_DIR"] == "gs://bucket/runs/xl/model"
    assert config.bindings["ModelSettings.vocabulary"].value == odd
    assert "LaunchSettings" not in Path("run.gin").read_text()
    capsys.readouterr()


def test_an_evaluation_is_sent_with_its_own_wiring(without_gcloud, tmp_path, capsys):
    asked = ["verb=eval", *(f"{name}={value}" for name, value in (("name", "ev"),))]
    macros = [
        "INITIAL_CHECKPOINT_PATH=gs://b/x",
        "MIXTURE_OR_TASK_NAME=starter",
        "TASK_FEATURE_LENGTHS={'inputs':8,'targets':8}",
    ]
    given = [*words(*asked), *(f"--gin.{macro}" for macro in macros)]
    assert main(["launch", "create", "--gin_file=launch/v5e_16_spot.gin", *given, "--dry_run"]) == 0
    script = (without_gcloud.parent / "ev" / "startup.sh").read_text()
    assert "PROGRAM=(t5x-instruct eval --gin_file=run.gin)" in script
    capsys.readouterr()


def test_a_host_is_a_number(without_gcloud, capsys):
    assert main(["launch", "logs", "--gin_file=launch/v5e_16_spot.gin", *words(), "--host=first", "--dry_run"]) == 2
    assert "--host=first: expected a number or 'all'" in capsys.readouterr().err
