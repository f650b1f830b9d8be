"""Speed of the order of a mixture, and speed and density of packing; lengths only, no model, one core.

    python benchmarks/data_plan.py [--folder FOLDER_OF_TSV] [--json]

The figures on packing are rows over the lower bound (the fuller side's total over its capacity) for windows
packed one after the other, so rows that stay open at the end of a window are counted in. FOLDER_OF_TSV has
files with lines `inputs<TAB>answer<TAB>explanation`; their lengths in bytes, each with one more for EOS, are
cut to the lengths of the row. Times are processor time of the best of several repetitions.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t5x_instruct.data.mixtures import Order
from t5x_instruct.data.packing import RowPlan, best_fit_decreasing, lower_bound

WINDOW = 2048
# name, (inputs, targets) lengths of a row, mean tokens of inputs and targets, sigma of the logarithms
LOG_NORMAL = [
    ("log-normal 1024/256", (1024, 256), (150, 20), 1.0),
    ("log-normal 2048/512", (2048, 512), (150, 20), 1.0),
    ("log-normal 512/128", (512, 128), (150, 20), 0.8),
]


def seconds(work: Callable[[], object], repetitions: int) -> float:
    """Processor time of the fastest repetition."""
    times = []
    for _ in range(repetitions):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def measure_order(num_tasks: int, chunk: int, repetitions: int) -> dict[str, Any]:
    sizes = np.random.default_rng(0).integers(20, 20_000, num_tasks)
    order = Order(sizes.tolist(), np.minimum(sizes, 3000).tolist(), 0)
    chunks = max(1, (1 << 19) // chunk)

    def work() -> None:
        for i in range(chunks):
            order.order(np.arange(i * chunk, (i + 1) * chunk))

    taken = seconds(work, repetitions)
    return {"tasks": num_tasks, "positions_a_call": chunk, "ns_an_example": taken / (chunks * chunk) * 1e9}


def measure_packing(name: str, lengths: NDArray[np.int32], capacity: Sequence[int], repetitions: int) -> dict[str, Any]:
    lengths = lengths[: len(lengths) // WINDOW * WINDOW or len(lengths)]
    windows = [lengths[i : i + WINDOW] for i in range(0, len(lengths), WINDOW)]

    def work() -> int:
        return sum(int(best_fit_decreasing(window, capacity).max()) + 1 for window in windows)

    rows, bound = work(), lower_bound(lengths, capacity)
    return {
        "lengths": name,
        "sides": len(capacity),
        "examples": len(lengths),
        "rows": rows,
        "bound": bound,
        "rows_over_bound": rows / bound,
        "examples_a_second": len(lengths) / seconds(work, repetitions),
    }


def measure_plan(lengths: NDArray[np.int32], capacity: Sequence[int], repetitions: int) -> dict[str, Any]:
    """Order, packing and shuffling together, as a stream with an end is planned before its first batch."""
    order = Order([len(lengths)], [1.0], 0)

    def work() -> int | None:
        return RowPlan(order, lambda e: lengths[e.example], capacity, 0, window=WINDOW, num_epochs=1).num_rows

    return {
        "sides": len(capacity),
        "examples": len(lengths),
        "examples_a_second": len(lengths) / seconds(work, repetitions),
    }


def log_normal(count: int, limits: tuple[int, int], means: tuple[int, int], sigma: float) -> NDArray[np.int32]:
    drawn = np.random.default_rng(0).lognormal(np.log(means) - sigma**2 / 2, sigma, (count, 2))
    return np.clip(drawn, 1, limits).astype(np.int32)


def lengths_of_folder(folder: Path) -> NDArray[np.int32]:
    """Bytes with EOS of inputs and of explanation + answer, files in the order of their names, shuffled."""
    found = []
    for path in sorted(folder.glob("*.tsv")):
        for line in path.read_bytes().splitlines():
            inputs, answer, explanation, *_ = [*line.split(b"\t"), b"", b""]
            found.append((len(inputs) + 1, len(answer) + len(explanation) + 1))
    if not found:
        raise SystemExit(f"no line in any .tsv file of {folder}")
    return np.random.default_rng(0).permutation(np.array(found, np.int32))


def measure(folder: Path | None, count: int, repetitions: int) -> dict[str, list[dict[str, Any]]]:
    order = [measure_order(tasks, chunk, repetitions) for tasks in (1, 100, 2000) for chunk in (WINDOW, 1 << 16)]
    cases = [(name, log_normal(count, limits, means, sigma), limits) for name, limits, means, sigma in LOG_NORMAL]
    if folder is not None:
        limits = (1024, 512)
        cases.append((f"{folder.name} 1024/512", np.minimum(lengths_of_folder(folder), limits), limits))
    packing = []
    for name, lengths, limits in cases:
        joined = (lengths.sum(axis=1, keepdims=True) - 1).astype(np.int32)
        packing.append(measure_packing(name, joined, [sum(limits)], repetitions))
        packing.append(measure_packing(name, lengths, limits, repetitions))
    lengths, limits = cases[0][1:]
    joined = (lengths.sum(axis=1, keepdims=True) - 1).astype(np.int32)
    plan = [measure_plan(joined, [sum(limits)], repetitions), measure_plan(lengths, limits, repetitions)]
    return {"order": order, "packing": packing, "plan": plan}


def as_table(rows: list[dict[str, Any]]) -> str:
    cells = [[*rows[0]]] + [
        [f"{v:.4f}" if isinstance(v, float) and v < 10 else f"{v:,.0f}" if isinstance(v, float) else str(v) for v in r]
        for r in (row.values() for row in rows)
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="folder of .tsv files whose lengths are packed too")
    parser.add_argument("--examples", type=int, default=10 * WINDOW, help="log-normal examples to pack")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args()
    figures = measure(arguments.folder, arguments.examples, arguments.repetitions)
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    for title, rows in figures.items():
        print(f"{title}\n{as_table(rows)}\n")


if __name__ == "__main__":
    main()
