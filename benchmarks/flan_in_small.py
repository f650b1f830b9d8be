"""FLAN's finding in small: the score on held-out clusters against the number of trained clusters, and of templates.

    pip install matplotlib
    python benchmarks/flan_in_small.py --out runs/flan_in_small --seeds 0 1     # about seven minutes a run on two cores

Every run is `recipes/quickstart.gin` (40 steps of the same number of rows) with one thing changed: how many of the nine
trained clusters are in the mixture (all their templates), or how many templates each trained task has (all clusters).
The held-out tasks, their questions and templates are the same in all runs. Runs whose report is there are not run
again. Prints a Markdown table and draws both curves.

Source of the finding: Wei et al. 2022, Finetuned Language Models Are Zero-Shot Learners, sections 4.1 and B.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

CLUSTERS, ALL_CLUSTERS = (1, 3, 6), 9
TEMPLATES, ALL_TEMPLATES = (1, 3), 6  # the starter's tasks have five to eight, in the mean about six
SUBSETS = str(Path(__file__).with_name("starter_subsets.py"))


class Setting(NamedTuple):
    """What is varied; None is all templates."""

    clusters: int
    templates: int | None


class Figures(NamedTuple):
    """Per cent over the held-out tasks, before and after training."""

    exact_before: float
    exact: float
    rank_before: float
    rank: float


SETTINGS = [
    *(Setting(count, None) for count in (*CLUSTERS, ALL_CLUSTERS)),
    *(Setting(ALL_CLUSTERS, count) for count in TEMPLATES),
]


def run(setting: Setting, seed: int, out: Path, before: Path | None) -> Path:
    """Trains one setting, unless its report is there; the folder."""
    name = f"clusters{setting.clusters}_templates{setting.templates or 'all'}_seed{seed}"
    folder = out / name
    if (folder / "report.json").is_file():
        return folder
    if before is not None:
        # The model before training, and what it is asked, are the same in all runs of a seed.
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        shutil.copy(before, folder / "samples" / before.name)
    words = [
        *(sys.executable, "-m", "t5x_instruct.cli.main", "train", "--gin_file=recipes/quickstart.gin"),
        f"--gin.MIXTURE_OR_TASK_NAME=starter_{setting.clusters}_clusters",
        f"--gin.MIXTURE_OR_TASK_MODULE=tasks.starter,{SUBSETS}",
        f"--gin.SEED={seed}",
        f"--gin.MODEL_DIR={folder}",
    ]
    if setting.templates is not None:
        words.append(f"--gin.DataSettings.num_templates={setting.templates}")
    print(f"... {name}", file=sys.stderr, flush=True)
    with open(out / f"{name}.log", "w") as log:
        subprocess.run(words, check=True, stdout=log, stderr=log)
    shutil.rmtree(folder / "checkpoints")  # half a gigabyte each
    return folder


def figures_of(folder: Path) -> Figures:
    """What a run's report says of the held-out tasks."""
    held_out = json.loads((folder / "report.json").read_text())["held_out"]
    before, after = held_out["before"], held_out["after"]
    return Figures(before["exact_match"], after["exact_match"], before["rank_accuracy"], after["rank_accuracy"])


def table(found: dict[Setting, list[Figures]]) -> str:
    """The figures as Markdown; several seeds are parted by commas."""
    lines = ["| trained clusters | templates a task | exact match | rank |", "|---|---|---|---|"]
    one = next(iter(found.values()))
    lines.append(
        f"| none (before) | - | {_listed(f.exact_before for f in one)} | {_listed(f.rank_before for f in one)} |"
    )
    for setting, figures in found.items():
        templates = setting.templates or "all (5 to 8)"
        exact, rank = _listed(f.exact for f in figures), _listed(f.rank for f in figures)
        lines.append(f"| {setting.clusters} | {templates} | {exact} | {rank} |")
    return "\n".join(lines)


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def draw(found: dict[Setting, list[Figures]], path: Path) -> None:
    """Both curves with each seed's point, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "flan_in_small"
    import matplotlib.pyplot as plt

    by_clusters = {s.clusters: f for s, f in found.items() if s.templates is None}
    by_templates = {s.templates or ALL_TEMPLATES: f for s, f in found.items() if s.clusters == ALL_CLUSTERS}
    panels = (("trained clusters", by_clusters), ("templates of each trained task", by_templates))
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    for axis, (label, points) in zip(axes, panels, strict=True):
        xs = sorted(points)
        for name, colour in (("exact", "#1b6e5a"), ("rank", "#8a5a00")):
            for x in xs:
                values = [getattr(f, name) for f in points[x]]
                axis.plot([x] * len(values), values, "o", color=colour, alpha=0.4, markersize=4)
            means = [statistics.mean(getattr(f, name) for f in points[x]) for x in xs]
            title = {"exact": "exact match", "rank": "rank (64 questions)"}[name]
            axis.plot(xs, means, color=colour, label=title)
        axis.set(xlabel=label, xticks=xs, ylim=(0, None))
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("held-out tasks, per cent")
    axes[0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is missing, prints the table, draws the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--svg", type=Path, help="where the curves go (default: OUT/flan_in_small.svg)")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    found: dict[Setting, list[Figures]] = {setting: [] for setting in SETTINGS}
    for seed in args.seeds:
        before = None
        for setting in SETTINGS:
            folder = run(setting, seed, args.out, before)
            before = folder / "samples" / "held_out_before.json"
            found[setting].append(figures_of(folder))
    print(table(found))
    draw(found, args.svg or args.out / "flan_in_small.svg")


if __name__ == "__main__":
    main()
