"""`t5x-instruct launch ACTION`: a run on Cloud TPU slices."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from t5x_instruct.cli.gin_arguments import add_gin_arguments
from t5x_instruct.cli.output import add_json_argument, print_json, print_table
from t5x_instruct.common.errors import ConfigError

ACTIONS: dict[str, str] = {
    "create": "send the code and ask for the slice, then return",
    "run": "the same (or watch what is there), show host 0's log, ask again for what is taken away, until the run ends",
    "status": "what the cloud and the hosts say",
    "logs": "the log of a host or of all, while it grows; or the bucket's copies",
    "stop": "let the run save a checkpoint and end; the slice stays and costs",
    "delete": "give the slice back; the run and its logs stay in the bucket",
}
EPILOG = """
settings, in a gin file (gin_configs/launch/) or as --gin.LaunchSettings.NAME=VALUE:
  needed: name, accelerator ('v5e-16', 'v5p:4x4x4'), zone, bucket ('gs://...')
  often:  capacity ('spot', 'reserved', 'on_demand'), slices, max_hours, delete_on_success, service_account
The run's own gin files and --gin.NAME=VALUE follow; they are checked here and sent as one file.
MODEL_DIR is by default BUCKET/NAME/model.

exit codes of run: 0 done, 1 a fault, 2 configuration, 42 stopped on request.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    add_gin_arguments(parser, "launch")
    actions = "\n".join(f"  {name:<8} {summary}" for name, summary in ACTIONS.items())
    parser.usage = f"{parser.prog} ACTION [--gin_file=FILE ...] [--gin.NAME=VALUE ...] [--dry_run]"
    parser.epilog = f"actions:\n{actions}\n{EPILOG}"
    parser.add_argument("action", choices=list(ACTIONS), metavar="ACTION", help="see below")
    parser.add_argument(
        "--dry_run", action="store_true", help="show every command; needs no gcloud and asks for nothing"
    )
    parser.add_argument("--host", default="0", metavar="N", help="logs: the host's number, or 'all'")
    parser.add_argument("--lines", type=int, default=100, metavar="N", help="logs: how many of the lines there are")
    parser.add_argument("--no_follow", action="store_true", help="logs: end after these lines")
    parser.add_argument("--from_bucket", action="store_true", help="logs: the copies, also of hosts that are gone")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Does the action."""
    from t5x_instruct.cloud.gcloud import Gcloud
    from t5x_instruct.cloud.launcher import Launcher
    from t5x_instruct.config.validate import resolve

    host = _host(args.host)
    config = resolve(args.gin_file, args.gin_overrides, verb="launch")
    settings = config.instantiate("LaunchSettings")
    if args.action in ("create", "run"):
        archive = _archive(args, settings, config)
        launcher = Launcher(settings, Gcloud(args.dry_run))
        if args.action == "create":
            launcher.create(archive)
        elif args.dry_run:
            launcher.rehearse(archive)
        else:
            return launcher.run(archive)
        return 0
    launcher = Launcher(settings, Gcloud(args.dry_run))
    if args.action == "status":
        _print_status(launcher, args.json)
    elif args.action == "logs" and args.from_bucket:
        launcher.logs_from_bucket(host)
    elif args.action == "logs":
        launcher.logs(host, args.lines, not args.no_follow)
    elif args.action == "stop":
        launcher.stop()
    else:
        launcher.delete()
    return 0


def _host(word: str) -> int | str:
    if word != "all" and not word.isdecimal():
        raise ConfigError(f"--host={word}: expected a number or 'all'")
    return word if word == "all" else int(word)


def _archive(args: argparse.Namespace, settings: Any, parsed: Any) -> Any:
    """Checks the run's own configuration, as its verb would, and packs it with the code."""
    from t5x_instruct.cloud.archive import lock_file, make_archive
    from t5x_instruct.config.validate import resolve

    overrides: Sequence[str] = args.gin_overrides
    if settings.verb == "train" and "MODEL_DIR" not in parsed.macros:
        overrides = [*overrides, f"MODEL_DIR={settings.root}/model"]
    files = ["runs/eval.gin"] if settings.verb == "eval" else []
    run_config = resolve([*files, *args.gin_file], overrides, verb=settings.verb)
    problems = [
        f"{name} = {value!r}: the hosts have a disk each, which goes away with them; use a folder of gs://"
        for name, value in run_config.macros.items()
        if name == "MODEL_DIR" and not str(value).startswith("gs://")
    ]
    if problems:
        raise ConfigError(problems)
    modules = [name for name in run_config.macros.get("MIXTURE_OR_TASK_MODULE") or () if name.endswith(".py")]
    text = "\n".join(line for line in run_config.text.splitlines() if not line.startswith("LaunchSettings."))
    return make_archive(f"{text}\n", [*settings.files, *modules], lock=lock_file())


def _print_status(launcher: Any, as_json: bool) -> None:
    view, hosts = launcher.backend.view(), launcher.hosts()
    if launcher.gcloud.dry_run:
        return
    if as_json:
        print_json(
            {
                "phase": view.phase.value,
                "detail": view.detail,
                "machines": list(view.hosts),
                "cost": launcher.settings.cost(),
                "hosts": [asdict(host) for host in hosts],
            }
        )
        return
    print(f"{launcher.settings.name}: {view.phase.value}{f' ({view.detail})' if view.detail else ''}")
    print(launcher.settings.cost())
    if hosts:
        print_table(["place", "state", "code", "machine", "time"], [asdict(host) for host in hosts], as_json=False)
