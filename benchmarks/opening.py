"""How long a prepared mixture of many tasks takes to open: from the manifest to the first batch of a run.

    python benchmarks/opening.py [--tasks 2000] [--examples 60] [--folder FOLDER] [--json]

Registers small tasks in a nested, capped mixture and prepares them (once, if FOLDER is kept); then measures what
`train` does with it before its first step. Seconds of wall and of processor time.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from t5x_instruct.common.quiet_tensorflow import import_tensorflow

CAP = 50
LENGTHS = {"inputs": 256, "targets": 64}


def register(num_tasks: int, num_examples: int) -> None:
    """Tasks in ten mixtures of a mixture; sizes from half to one and a half times the mean."""
    from t5x_instruct.data.tasks import add_mixture, add_task, proportional

    parts: dict[str, list[str]] = {}
    for i in range(num_tasks):
        size = max(2, num_examples * (50 + i * 37 % 101) // 100)
        rows = [
            {"text": f"Of task {i}, question {k}: what is {k} times {i}?", "answer": str(i * k)} for k in range(size)
        ]
        templates = ["{text}\nAnswer with a number.", "Here is a question. {text}"]
        add_task(f"opening_{i}", cluster=f"opening_{i}", source={"train": rows}, templates=templates, metrics=[])
        parts.setdefault(f"opening_part_{i % 10}", []).append(f"opening_{i}")
    for name, tasks in parts.items():
        add_mixture(name, tasks, rate=proportional(cap=CAP))
    add_mixture("opening", list(parts), rate=1.0)


def measure(num_tasks: int, num_examples: int, folder: Path) -> dict[str, Any]:
    import_tensorflow()
    from t5x_instruct.data.audit import AuditLimits, check_before_training
    from t5x_instruct.data.converters import DecoderConverter
    from t5x_instruct.data.loader import Loader
    from t5x_instruct.data.prepare import prepare
    from t5x_instruct.data.prepare_spec import PrepareSpec
    from t5x_instruct.data.prepared import load_prepared
    from t5x_instruct.data.vocabularies import load_vocabulary

    register(num_tasks, num_examples)
    spec = PrepareSpec(mixture="opening", modules=(), vocabulary="bytes", splits=("train",), root=folder)
    figures: dict[str, Any] = {"tasks": num_tasks}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start, processor = time.perf_counter(), time.process_time()
        result = work()
        figures[name] = round(time.perf_counter() - start, 2)
        figures[f"{name}_processor"] = round(time.process_time() - processor, 2)
        return result

    timed("prepare", lambda: prepare(spec, progress=lambda line: None))
    mixture = timed("open", lambda: load_prepared(spec))
    converter = DecoderConverter(LENGTHS["inputs"], LENGTHS["targets"], start_id=1, pad_id=0)
    loader = timed("loader", lambda: Loader(mixture, "train", converter, batch_size=32, seed=0))
    vocabulary = load_vocabulary("bytes")
    timed("check", lambda: check_before_training(mixture, vocabulary, LENGTHS, AuditLimits()))
    timed("realised", loader.realised_mixture)
    timed("first_batch", lambda: loader.batch(0))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--examples", type=int, default=60, help="mean examples of a task")
    parser.add_argument("--folder", type=Path, help="keeps what is prepared, for the next time")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a list")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(arguments.tasks, arguments.examples, arguments.folder or Path(temporary))
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        print("\n".join(f"{name:<22}{value:>10,}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
