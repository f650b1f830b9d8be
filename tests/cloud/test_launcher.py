"""The state machine, against a `gcloud` that walks through the states."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from t5x_instruct.cli.main import main
from t5x_instruct.cloud.archive import Archive
from t5x_instruct.cloud.backend import Phase, make_backend
from t5x_instruct.cloud.gcloud import CloudError, Gcloud, command, shown
from t5x_instruct.cloud.launcher import Launcher, files_folder

ARCHIVE = Archive(b"code", ("setup.py",))
MISSING = (1, "", "ERROR: (gcloud) NOT_FOUND: Resource was not found")
EMPTY = (1, "", "ERROR: The following URLs matched no objects or files")


def state(name, **data):
    return ("describe", 0, json.dumps({"name": "xl", "state": {"state": name, **data}}), "")


def said(*ends):
    text = "".join(f"{place} {word} {code} machine-1 2026-01-01T00:00:00Z\n" for place, word, code in ends)
    return ("storage cat", 0, text, "")


def launch(cloud, settings, *answers, clock=lambda: 0.0):
    """The code of `run`, and all that was said."""
    lines = []
    cloud.script(("describe", *MISSING), ("rm", *EMPTY), *answers)
    launcher = Launcher(settings, Gcloud(), lines.append, clock, lambda seconds: lines.append(f"slept {seconds:g}"))
    return launcher.run(ARCHIVE), "\n".join(lines)


def test_a_run_that_is_taken_away_goes_on(cloud, settings, capfd):
    code, text = launch(
        cloud,
        settings(capacity="spot"),
        *map(state, ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE", "SUSPENDING", "SUSPENDED"]),
        *map(state, ["CREATING", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]),
        ("storage cat", *EMPTY),
        said(("slice0-host0", "running", "-")),
        said(("slice0-host0", "done", 0), ("slice0-host1", "running", "-")),
        ("ssh", 0, "a line of the log\n", ""),
    )
    assert code == 0
    assert "# running: ACTIVE\n" in text
    assert "# SUSPENDED: deleted and asked for again" in text
    assert "the slice is still there and costs" in text
    creations = cloud.asked("queued-resources", "create")
    assert len(creations) == 2
    assert creations[0] == creations[1]  # the same code and the same run
    assert "--spot" in creations[0]
    deletions = cloud.asked("queued-resources", "delete")
    assert len(deletions) == 1
    assert "--force" in deletions[0]
    assert len(cloud.asked("storage", "cp")) == 1
    order = [call[3] for call in cloud.calls() if call[1:3] == ["tpus", "queued-resources"] and call[3] != "describe"]
    assert order == ["create", "delete", "create"]
    assert "a line of the log" in capfd.readouterr().out


def test_a_slice_is_given_back_after_success_only_if_that_is_asked(cloud, settings):
    code, _ = launch(cloud, settings(delete_on_success=True), state("ACTIVE"), said(("slice0-host0", "done", 0)))
    assert code == 0
    assert len(cloud.asked("queued-resources", "delete")) == 1


def test_a_slice_that_its_host_has_given_back_after_success_is_no_fault(cloud, settings):
    code, _ = launch(
        cloud,
        settings(delete_on_success=True),
        state("ACTIVE"),
        ("describe", *MISSING),
        said(("slice0-host0", "running", "-")),
        said(("slice0-host0", "done", 0)),
        ("delete", *MISSING),
    )
    assert code == 0


@pytest.mark.parametrize(("word", "code"), [("gave_up", 1), ("refused", 2), ("stopped", 42)])
def test_nothing_is_deleted_when_the_program_fails(cloud, settings, word, code):
    ends = said(("slice0-host0", "running", "-"), ("slice0-host3", word, code))
    assert launch(cloud, settings(delete_on_success=True), state("ACTIVE"), ends)[0] == code
    assert not cloud.asked("delete")


def test_what_another_has_deleted_is_not_made_again(cloud, settings):
    with pytest.raises(CloudError, match="deleted by somebody else"):
        launch(cloud, settings(), state("ACTIVE"), ("describe", *MISSING), said(("slice0-host0", "running", "-")))
    assert len(cloud.asked("create")) == 1


def test_requests_that_fail_one_after_the_other_end(cloud, settings):
    failed = state("FAILED", failedData={"error": {"message": "no quota"}})
    with pytest.raises(CloudError, match="3 requests in a row failed, the last with: FAILED: no quota"):
        launch(cloud, settings(max_recreations=2), failed)
    assert len(cloud.asked("queued-resources", "create")) == 3
    assert len(cloud.asked("queued-resources", "delete")) == 2  # the last is left for a look


def test_waits_are_longer_after_each_failure(cloud, settings):
    states = [state("FAILED"), state("FAILED"), state("ACTIVE")]
    _, text = launch(cloud, settings(poll_seconds=10), *states, said(("slice0-host0", "done", 0)))
    assert [float(s) for s in re.findall(r"slept (\S+)", text)] == [10, 20, 10, 40, 10]


def test_the_cost_guard_deletes_whatever_is_going_on(cloud, settings):
    times = iter([0, 0, 100_000, 100_010, 101_000, 102_000, 104_000])  # the first long wait is one in the queue
    states = map(state, ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE", "SUSPENDED", "ACTIVE"])
    with pytest.raises(CloudError, match="max_hours = 1 are over: xl is deleted"):
        launch(cloud, settings(max_hours=1), *states, clock=lambda: next(times, 105_000))
    assert [call[3] for call in cloud.asked("queued-resources") if call[3] != "describe"] == [
        *("create", "delete", "create"),
        "delete",
    ]
    script = (files_folder("xl") / "startup.sh").read_text()  # what is left when it was made the second time
    assert f"MAX_SECONDS={3600 - 1000}\n" in script


def test_what_is_found_taken_away_gets_this_code(cloud, settings):
    cloud.script(state("SUSPENDED"), ("rm", *EMPTY), state("ACTIVE"), said(("slice0-host0", "done", 0)))
    assert Launcher(settings(), Gcloud(), lambda _: None, sleep=lambda _: None).run(ARCHIVE) == 0
    assert len(cloud.asked("storage", "cp")) == 1


def test_a_look_that_fails_is_taken_again(cloud, settings):
    broken = ("describe", 1, "", "ERROR: connection reset")
    code, text = launch(
        cloud, settings(), state("PROVISIONING"), broken, state("ACTIVE"), said(("slice0-host0", "done", 0))
    )
    assert code == 0
    assert "connection reset; trying again" in text
    assert len(cloud.asked("create")) == 1


def test_what_is_there_is_watched_and_not_made(cloud, settings):
    cloud.script(state("ACTIVE"), said(("slice0-host0", "running", "-")), said(("slice0-host0", "done", 0)))
    assert Launcher(settings(), Gcloud(), lambda _: None, sleep=lambda _: None).run(ARCHIVE) == 0
    assert not cloud.asked("create")
    assert not cloud.asked("storage", "cp")


def test_what_was_stopped_is_started_again(cloud, settings):
    cloud.script(
        state("ACTIVE"),
        said(("slice0-host0", "stopped", 42)),
        ("storage cat", *EMPTY),
        said(("slice0-host0", "done", 0)),
    )
    assert Launcher(settings(), Gcloud(), lambda _: None, sleep=lambda _: None).run(ARCHIVE) == 0
    (resumed,) = [call for call in cloud.asked("ssh", "--worker=all")]
    assert "google-startup-scripts" in resumed[-1]
    assert cloud.asked("storage", "rm")


def test_a_second_create_of_the_same_name_is_refused(cloud, settings):
    cloud.script(state("ACTIVE"))
    with pytest.raises(CloudError, match="xl is there already \\(ACTIVE\\)"):
        Launcher(settings(), Gcloud(), lambda _: None).create(ARCHIVE)
    assert not cloud.asked("create")


def test_a_failed_command_is_shown_with_its_message(cloud, settings):
    cloud.script(("describe", *MISSING), ("create", 1, "", "ERROR: quota exceeded"))
    with pytest.raises(CloudError, match=r"(?s)exit code 1:\ngcloud compute tpus .*quota exceeded") as raised:
        Launcher(settings(), Gcloud(), lambda _: None).create(ARCHIVE)
    assert "--accelerator-type=v5litepod-16" in str(raised.value)


@pytest.mark.parametrize("output", ["", "[]", '{"state": {}}', '{"state": "ACTIVE"}'])
def test_an_answer_that_makes_no_sense_is_an_error_and_not_a_state(cloud, settings, output):
    cloud.script(("describe", 0, output, ""))
    with pytest.raises(CloudError, match="unknown way"):
        make_backend(settings(), Gcloud()).view()


GROUP = {"accelerator": "v6e-16", "backend": "instance_group", "project": "p-1"}


def instances(*states):
    path = "https://compute/projects/p-1/zones/z/instances/xl-"
    return [{"instance": f"{path}{i}", "instanceStatus": s, "currentAction": "NONE"} for i, s in enumerate(states)]


@pytest.mark.parametrize(
    ("states", "phase"),
    [
        ([], Phase.WAITING),
        (["PENDING"] * 4, Phase.WAITING),
        (["STAGING", "RUNNING", "RUNNING", "RUNNING"], Phase.STARTING),
        (["RUNNING"] * 3, Phase.STARTING),
        (["RUNNING"] * 4, Phase.RUNNING),
        (["RUNNING", "RUNNING", "RUNNING", "STOPPING"], Phase.LOST),
        (["TERMINATED"] * 4, Phase.LOST),
    ],
)
def test_states_of_a_group(cloud, settings, states, phase):
    cloud.script(("list-instances", 0, json.dumps(instances(*states)), ""))
    assert make_backend(settings(**GROUP), Gcloud()).view().phase is phase


def test_a_group_that_is_taken_away_is_made_again_with_its_parts(cloud, settings):
    cloud.script(
        ("list-instances", *MISSING),
        ("list-instances", 0, json.dumps(instances(*["RUNNING"] * 4)), ""),
        ("list-instances", 0, json.dumps(instances(*["RUNNING"] * 4)), ""),
        ("list-instances", 0, json.dumps(instances(*["TERMINATED"] * 4)), ""),
        ("list-instances", 0, json.dumps(instances(*["RUNNING"] * 4)), ""),
        said(("slice0-host0", "running", "-")),
        said(("slice0-host0", "done", 0)),
    )
    assert Launcher(settings(**GROUP), Gcloud(), lambda _: None, sleep=lambda _: None).run(ARCHIVE) == 0
    for kind in ("managed", "instance-templates", "resource-policies"):
        assert [call[: call.index("xl")][-1] for call in cloud.asked(kind, "xl") if "list-instances" not in call] in (
            ["create", "delete", "create"],
            ["workload-policy", "delete", "workload-policy"],
        )


def test_what_an_earlier_launch_has_left_is_replaced(cloud, settings):
    cloud.script(
        ("list-instances", *MISSING),
        ("instance-templates create", 1, "", "The resource 'xl' already exists"),
        ("instance-templates create", 0, "", ""),
    )
    Launcher(settings(**GROUP), Gcloud(), lambda _: None).create(ARCHIVE)
    assert [call[2] for call in cloud.asked("instance-templates")] == ["create", "delete", "create"]


def test_logs_of_one_host_of_several_slices(cloud, settings, capfd):
    cloud.script(("ssh", 0, "text\n", ""))
    launcher = Launcher(settings(slices=2), Gcloud(), print)
    launcher.logs(6, lines=5, follow=False)
    (call,) = cloud.asked("ssh")
    assert call[4] == "xl-1"
    assert "--worker=2" in call
    assert "--command=sudo tail -n 5 /var/lib/t5x_instruct/log/run.log" in call
    assert capfd.readouterr().out == "text\n"
    launcher.logs_from_bucket(6)
    assert cloud.calls()[-1][-1] == "--display-url"
    assert "gs://bucket/runs/xl/logs/slice1-host2-*" in cloud.calls()[-1]
    with pytest.raises(Exception, match="has hosts 0 to 7"):
        launcher.logs(8)


def test_without_gcloud_the_message_says_what_to_do(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CloudError, match="--dry_run"):
        Gcloud()
    assert Gcloud(dry_run=True).run(["gcloud", "x"]).code == 0


ODD = [
    "a b",
    "'",
    '"',
    "$(touch hacked)",
    "`touch hacked`",
    "; touch hacked",
    "\\",
    "*",
    "~",
    "",
    "a\nb",
    "é",
    "--x=y z",
]


def test_words_reach_gcloud_as_they_are_also_from_what_is_shown(cloud, tmp_path):
    made = command("storage", *ODD, labels=ODD, spot=True, nothing=None, empty=())
    assert made[0] == "gcloud"
    assert "--spot" in made
    assert not any(word.startswith(("--nothing", "--empty")) for word in made)
    Gcloud().run(made)
    subprocess.run(["bash", "-c", shown(made)], check=True, cwd=tmp_path)
    assert cloud.calls() == [made[1:]] * 2
    assert not list(tmp_path.rglob("hacked"))


def test_status_from_the_command_line(cloud, capsys):
    settings = ["name=xl", "zone=us-west4-a", "bucket=gs://bucket"]
    words = ["launch", "status", "--gin_file=launch/v5e_16_spot.gin", *(f"--gin.LaunchSettings.{s}" for s in settings)]
    cloud.script(state("ACTIVE"), said(("slice0-host1", "waiting", 1), ("slice0-host0", "running", "-")))
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["phase"], result["detail"]) == ("running", "ACTIVE")
    assert [host["place"] for host in result["hosts"]] == ["slice0-host0", "slice0-host1"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert text.startswith("xl: running (ACTIVE)\nat most 16 chips x 72 h")
    assert "slice0-host1  waiting  1" in text
