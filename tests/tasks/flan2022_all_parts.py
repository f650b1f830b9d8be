"""A process of its own that registers all five parts of Flan 2022 from small files and tells what came of it.

python flan2022_all_parts.py FOLDER
"""

import json
import sys
from collections import Counter
from pathlib import Path

import seqio

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.data.task_modules import import_task_modules
from t5x_instruct.data.tasks import add_mixture, add_rendering, rates_of, task_info, tasks_in

MODULE = "tasks.flan2022"


def error_of(options: dict[str, str]) -> str:
    """What an import with these options complains of."""
    try:
        import_task_modules([MODULE], options)
    except ConfigError as error:
        return str(error)
    return ""


def shares(mixture: str) -> dict[str, float]:
    """The share of each part, and of each form of a part."""
    names = tasks_in(mixture)
    rates = rates_of(mixture, names)
    parts: Counter[str] = Counter()
    for part in ("flan2021", "t0", "niv2", "cot", "dialog"):
        inside = set(tasks_in(f"flan2022_{part}"))
        parts[part] += sum(rate for name, rate in rates.items() if name in inside)
        for form in ("zsopt", "zsnoopt", "fsopt", "fsnoopt"):
            if f"flan2022_{part}_{form}" in seqio.MixtureRegistry.names():
                of_form = set(tasks_in(f"flan2022_{part}_{form}"))
                parts[f"{part}_{form}"] += sum(rate for name, rate in rates.items() if name in of_form)
    return dict(parts)


def main(folder: Path) -> None:
    """Prints one JSON object."""
    errors = [
        error_of({f"{MODULE}.PARTS": "niv2,cot"}),
        error_of({f"{MODULE}.PARTS": "flan2021,coot"}),
        error_of({f"{MODULE}.BUDGET": "many"}),
        error_of({f"{MODULE}.P3_INDEX": str(folder / "absent.tsv")}),
        error_of({"tasks.cot.FOLDER": str(folder / "absent")}),
    ]
    options = {f"{MODULE}.P3_INDEX": "p3.tsv", f"{MODULE}.P3_FOLDER": "p3", f"{MODULE}.WIKI_DIALOG": "wiki-*.jsonl"}
    options |= {"tasks.cot.FOLDER": "cot", "tasks.niv2.FOLDER": "niv2"}
    import_task_modules([MODULE], {name: str(folder / path) for name, path in options.items()})
    for name in tasks_in("flan2022"):  # the data of most is not here; what a form's tasks count is their cap
        size = len(seqio.TaskRegistry.get(name).name) * 5
        seqio.TaskRegistry.get(name).num_input_examples = lambda split, size=size: size
    report = sys.modules[MODULE].REPORT
    for i in range(1500):
        add_rendering(f"many_{i}", "flan2021_rte")
    add_mixture("many", [f"many_{i}" for i in range(1500)], rate=1.0)
    add_mixture("flan2022_and_many", [("flan2022", 0.5), ("many", 0.5)])
    rates = rates_of("flan2022_and_many", tasks_in("flan2022_and_many"))
    print(
        json.dumps(
            {
                "errors": errors,
                "left_out": dict(report.left_out),
                "told": {mixture: dict(parts) for mixture, parts in report.shares.items()},
                "shares": {mixture: shares(mixture) for mixture in report.shares},
                "tasks": {name: [task_info(name).base, task_info(name).cluster] for name in tasks_in("flan2022")},
                "rates": rates_of("flan2022", tasks_in("flan2022")),
                "many": [len(rates), sum(rates.values())],
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
