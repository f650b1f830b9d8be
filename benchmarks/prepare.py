"""Speed of `prepare`: examples a second of processor time in each mode, and what that makes of a large collection.

    python benchmarks/prepare.py [--rows N] [--small_tasks N] [--vocabulary SPEC] [--mode MODE ...] [--json]

Rows are made (a question of about 80 words, a short answer) and written to a JSONL file. The modes: `in_process`;
`workers`, two processes; `pipeline`, the same task with a step that only a `tf.data` pipeline can do, as any seqio
task; `beam`, the DirectRunner of Apache Beam in one process (extra beam); `small_tasks`, many tasks of 20 rows, where
starting a task is what costs. Each runs in a process of its own. Processor time is of the run with its children,
without the import of TensorFlow in the first process (about 6 s), which the started ones pay. The projection is the
time for 15 million examples, about as many as Flan 2022 has, on 16 cores.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MODES = ("in_process", "workers", "pipeline", "small_tasks", "beam")
LARGE, CORES = 15_000_000, 16
SMALL_ROWS = 20
TASKS = """
import os
from t5x_instruct.data.sources import Jsonl
from t5x_instruct.data.tasks import add_mixture, add_task

TEMPLATES = ["{question}", "Answer this.\\n\\n{question}", "Q: {question}\\nA:", "{question}\\nWhat do you say?"]

def same(dataset):
    return dataset.map(lambda row: row)

def add(name, path, steps=()):
    add_task(name, cluster="c", source=Jsonl({"train": path}), templates=TEMPLATES, metrics=[], preprocessors=steps)

add("bench", os.environ["BENCH_ROWS"])
add("bench_pipeline", os.environ["BENCH_ROWS"], [same])
small = [f"small_{i:04}" for i in range(int(os.environ["BENCH_SMALL"]))]
for name in small:
    add(name, os.environ["BENCH_FEW"])
add_mixture("bench_small", small, rate=1.0)
"""


def write_rows(path: Path, count: int) -> None:
    made = random.Random(0)
    words = [f"{a}{b}" for a in ("ba", "ke", "lo", "ni", "su", "tra", "wo") for b in ("m", "rt", "nd", "s", "ling", "")]
    with open(path, "w") as file:
        for i in range(count):
            question = " ".join(made.choices(words, k=made.randint(20, 140)))
            file.write(json.dumps({"question": f"{question}?", "answer": made.choice(words) + str(i)}) + "\n")


def run_mode(mode: str, folder: Path, vocabulary: str) -> dict[str, Any]:
    """One mode, in this process."""
    from t5x_instruct.common.quiet_tensorflow import import_tensorflow

    import_tensorflow()
    from t5x_instruct.data.prepare import prepare
    from t5x_instruct.data.prepare_spec import Execution, PrepareSpec

    mixture = {"small_tasks": "bench_small", "pipeline": "bench_pipeline"}.get(mode, "bench")
    spec = PrepareSpec(
        mixture=mixture,
        modules=(str(folder / "bench_tasks.py"),),
        vocabulary=vocabulary,
        splits=("train",),
        root=folder / mode,
    )
    execution = Execution(
        workers=2 if mode == "workers" else 1, runner="DirectRunner" if mode == "beam" else None, shard_rows=8192
    )
    start, cpu = time.perf_counter(), processor_seconds()
    prepared = prepare(spec, lambda line: None, execution)
    wall, cpu = time.perf_counter() - start, processor_seconds() - cpu
    examples = sum(task.splits["train"].num_examples for task in prepared.tasks)
    return {
        "mode": mode,
        "tasks": len(prepared.tasks),
        "examples": examples,
        "seconds": wall,
        "processor_seconds": cpu,
        "examples_a_core_second": examples / cpu,
        "ms_a_task": 1000 * wall / len(prepared.tasks),
        "projected_hours_16_cores": LARGE / (examples / cpu) / CORES / 3600,
    }


def processor_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--small_tasks", type=int, default=2_000)
    parser.add_argument("--vocabulary", default="bytes")
    parser.add_argument("--mode", action="append", choices=MODES)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(run_mode(args.mode[0], Path(args.child), args.vocabulary)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "rows.jsonl", args.rows)
        write_rows(folder / "few.jsonl", SMALL_ROWS)
        (folder / "bench_tasks.py").write_text(TASKS)
        environment = os.environ | {
            "BENCH_ROWS": str(folder / "rows.jsonl"),
            "BENCH_FEW": str(folder / "few.jsonl"),
            "BENCH_SMALL": str(args.small_tasks),
        }
        for mode in args.mode or MODES[:-1]:
            command = [sys.executable, __file__, "--child", name, "--mode", mode, "--vocabulary", args.vocabulary]
            child = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(child.stdout.splitlines()[-1])
            if args.json:
                print(json.dumps(found))
                continue
            print(
                f"{mode:<12}{found['examples']:>9,} examples of {found['tasks']:,} tasks in {found['seconds']:.1f} s, "
                f"{found['processor_seconds']:.1f} s of processor time: {found['examples_a_core_second']:,.0f} "
                f"examples a second and core, {found['ms_a_task']:.1f} ms a task; 15M examples on 16 cores: "
                f"{60 * found['projected_hours_16_cores']:.1f} min"
            )


if __name__ == "__main__":
    main()
