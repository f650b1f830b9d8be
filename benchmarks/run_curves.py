"""The loss of runs, in training and validation, as one picture.

    pip install matplotlib
    python benchmarks/run_curves.py runs/niv2 [runs/other ...] --svg docs/figures/niv2.svg

Training losses are means over a window of about a twentieth of the run.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path


def curve(folder: Path, kind: str) -> tuple[list[int], list[float]]:
    """Steps and losses of a run's records of one kind."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = [(record["step"], record["loss"]) for record in records if record["kind"] == kind]
    return [step for step, _ in found], [loss for _, loss in found]


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Means over the last `window` values."""
    return [sum(values[max(0, i + 1 - window) : i + 1]) / min(window, i + 1) for i in range(len(values))]


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="MODEL_DIR")
    parser.add_argument("--svg", type=Path, required=True)
    args = parser.parse_args(arguments)

    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "run_curves"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(args.runs), figsize=(4.5 * len(args.runs), 3.2), layout="constrained", squeeze=False
    )
    for axis, folder in zip(axes[0], args.runs, strict=True):
        steps, losses = curve(folder, "train")
        axis.plot(steps, losses, color="#1b6e5a", alpha=0.2, linewidth=0.8)
        axis.plot(steps, smoothed(losses, max(1, len(losses) // 20)), color="#1b6e5a", label="training")
        axis.plot(*curve(folder, "validation"), "o-", color="#8a5a00", markersize=4, label="validation")
        axis.set(title=folder.name, xlabel="step", ylabel="loss [nats per trained token]")
        axis.grid(alpha=0.25)
        axis.legend(frameon=False)
    figure.savefig(args.svg, metadata={"Date": None})


if __name__ == "__main__":
    main()
