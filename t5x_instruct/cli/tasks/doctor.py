"""`tasks doctor`: which tasks' data is here, which can be downloaded, and what the others need."""

import argparse
import sys
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from t5x_instruct.cli.data_arguments import add_task_choice, chosen_tasks
from t5x_instruct.cli.output import BOLD, add_json_argument, colour, print_error, print_json, print_table
from t5x_instruct.common.errors import EXIT_DONE, EXIT_FAULT, InstructError

TABLE = ("task", "cluster", "status", "dataset", "version", "pinned")
TRIED_FIRST = 16  # to see whether there is a network
STATUSES = ("ready", "downloadable", "manual", "gone")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the action's arguments."""
    add_task_choice(parser)
    parser.add_argument(
        "--download", action="store_true", help="download and prepare what is not here, with TensorFlow Datasets"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Looks at each task's data and says what is to be done."""
    names = chosen_tasks(args)
    import seqio

    from t5x_instruct.data.source_states import state_of

    sources = {name: _asked(seqio.TaskRegistry.get(name).source) for name in names}
    failed = _download(sources) if args.download else 0
    states = {name: state_of(source) for name, source in sources.items()}
    notes = [] if args.download else _look_up(sources, states)
    rows = [_row(name, sources[name], states[name]) for name in names]
    rows.sort(key=lambda row: (STATUSES.index(row["status"]), row["cluster"], row["task"]))
    if args.json:
        print_json({"tasks": rows, "notes": notes})
    else:
        _print(rows, notes)
    return EXIT_FAULT if failed else EXIT_DONE


def _asked(source: Any) -> Any:
    """A source that can be asked about its data: seqio's own of TFDS as one of ours."""
    import seqio

    from t5x_instruct.data.source_states import as_rows

    return as_rows(source) if isinstance(source, seqio.TfdsDataSource) else source


def _look_up(sources: Mapping[str, Any], states: dict[str, Any]) -> list[str]:
    """Looks up in the network whether what could be downloaded is still there; changes `states`, gives notes."""
    from t5x_instruct.data.addresses import ANSWER_SECONDS, look_up, there_is_a_network
    from t5x_instruct.data.source_states import with_answers
    from t5x_instruct.data.tfds_source import TfdsRows

    asked = {
        name: source
        for name, source in sources.items()
        if isinstance(source, TfdsRows) and states[name].status == "downloadable"
    }
    urls = list(dict.fromkeys(url for source in asked.values() for url in source.addresses()))
    if not urls:
        return []
    print(f"doctor: looking up {len(urls)} addresses", file=sys.stderr, flush=True)
    by_host = {urllib.parse.urlsplit(url).netloc: url for url in urls}
    first = list(dict.fromkeys([*by_host.values(), *urls]))[:TRIED_FIRST]  # as many hosts as there are
    answers = look_up(first, ANSWER_SECONDS)
    if not there_is_a_network(answers):
        return ["no network: whether what is downloadable is still there was not looked up"]
    answers |= look_up([url for url in urls if url not in answers], ANSWER_SECONDS)
    states |= {name: with_answers(states[name], source, answers) for name, source in asked.items()}
    return []


def _download(sources: Mapping[str, Any]) -> int:
    """Fetches each dataset once; gives how many could not be had."""
    failed = 0
    done = set()
    for name, source in sources.items():
        dataset = getattr(source, "dataset", None)
        if dataset is None or dataset in done or not hasattr(source, "fetch"):
            continue
        done.add(dataset)
        try:
            source.fetch(lambda line: print(f"doctor: {line}", file=sys.stderr, flush=True))
        except InstructError as error:
            failed += 1
            print_error(f"{name}: {error}")
    return failed


def _row(name: str, source: Any, state: Any) -> dict[str, Any]:
    from t5x_instruct.data.tasks import task_info
    from t5x_instruct.data.tfds_source import TfdsRows

    info = task_info(name)
    tfds = isinstance(source, TfdsRows)
    return {
        "task": name,
        "cluster": info.cluster,
        "status": state.status,
        "dataset": info.dataset or info.source,
        "version": source.shipped_version() if tfds else None,
        "pinned": source.pinned if tfds else None,
        "why": state.why,
        "fix": state.fix,
    }


def _print(rows: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> None:
    print_table(TABLE, rows, as_json=False)
    for status in STATUSES[1:]:
        reasons: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            if row["status"] == status:
                reasons.setdefault(("" if status == "downloadable" else row["why"], row["fix"]), []).append(row["task"])
        for (why, fix), names in reasons.items():
            shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            print(f"\n{colour(status, BOLD)}: {shown}\n  {'; '.join(part for part in (why, fix) if part)}")
    counts = [f"{sum(row['status'] == status for row in rows)} {status}" for status in STATUSES]
    print("\n" + "\n".join([*notes, ", ".join(counts)]))
