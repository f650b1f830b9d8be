"""The report as one HTML page: no network, no script, every text escaped."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from t5x_instruct.evaluation.charts import Series, bars, line_chart, short_number, smoothed
from t5x_instruct.evaluation.metrics import normalize
from t5x_instruct.evaluation.results import manner

Figures = Mapping[str, Any] | None

_RANKED = ("rank_accuracy", "rank_accuracy_normalized", "best_rank")
EXAMPLES_PER_TASK = 2
EXAMPLES_SHOWN = 40
_LONGEST_TEXT = 1500
_ARROW = '<span class="arrow" aria-label="to">&rarr;</span>'
_LEGEND = (
    '<p class="legend" aria-hidden="true"><span class="key"><i class="before"></i>before training</span>'
    '<span class="key"><i class="after"></i>after training</span>{mark}</p>'
)
_MARK = '<span class="key"><i class="mark"></i>guessing</span>'


def render_page(report: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> str:
    """The page.

    Args:
        report: what `report.build_report` gives.
        records: of `metrics.jsonl`, for the curves.
    """
    style = resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    body = "".join(
        [
            _header(report),
            "<main>",
            _problems(report["problems"]),
            _held_out(report["held_out"]),
            _training(records, report["train"]),
            _examples(report["examples"]),
            _run(report),
            "</main>",
        ]
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(report['name'])} · t5x_instruct</title><style>{style}</style></head><body>{body}"
        "<footer><p>Written by t5x_instruct; the same figures are in report.json.</p></footer></body></html>\n"
    )


def _header(report: Mapping[str, Any]) -> str:
    run, train, held_out = report["run"], report["train"], report["held_out"]
    told = []
    if run.get("model"):
        told.append(str(run["model"]))
    if run.get("parameters"):
        told.append(f"{short_number(run['parameters'])} parameters")
    if run.get("mixture"):
        told.append(f"trained on the mixture {run['mixture']}")
    lead = f'<p class="lead">{escape(", ".join(told))}.</p>' if told else ""
    facts = [
        ("Steps", f"{train['steps']:,}"),
        ("Target tokens", short_number(train["target_tokens"])),
        ("Time in steps", _duration(train["seconds"])),
        ("Target tokens a second", _optional(train["target_tokens_per_second"], short_number)),
        ("Training loss", _change(train["first_loss"], train["last_loss"])),
        ("Validation loss", _change(train["first_validation_loss"], train["last_validation_loss"])),
        ("Best checkpoint", _best_checkpoint(report["best_checkpoint"])),
    ]
    shown = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts if value)
    before, after = held_out["before"], held_out["after"]
    return (
        '<header class="page"><p class="kicker">Instruction tuning report</p>'
        f'<h1>{_name(report["name"])}</h1>{lead}<div class="heroes">'
        f"{_hero('Held-out tasks, never trained on', 'score', before, after)}"
        f"{_hero('The same, choosing among given options', 'rank_accuracy', before, after)}"
        f'</div><dl class="facts">{shown if train["steps"] else ""}</dl></header>'
    )


def _hero(what: str, key: str, before: Figures, after: Figures) -> str:
    first, last = _figure(before, key), _figure(after, key)
    if first is None and last is None:
        return ""
    known = after if after is not None else before
    assert known is not None
    chance = _figure(known, "rank_chance") if key == "rank_accuracy" else None
    if first is None or last is None:
        value = first if last is None else last
        moment = "before training" if last is None else "after training"
        figures, foot = f'<span class="to">{value:.1f}</span>', moment
    else:
        figures = f'<span class="from">{first:.1f}</span> {_ARROW} <span class="to">{last:.1f}</span>'
        foot = f"{_difference(first, last)} points"
    foot += f", guessing reaches {chance:.1f}" if chance is not None else ""
    count = f"mean over {known['num_tasks']} tasks, {known['num_examples']:,} examples" if key == "score" else ""
    foot += f"; {count}" if count else ""
    return (
        f'<div class="hero"><p class="what">{what}</p><p class="figures">{figures}</p>'
        f'{bars(first, last, chance)}<p class="foot">{foot}</p></div>'
    )


def _best_checkpoint(best: Figures) -> str:
    return "" if best is None else f"step {best['step']:,} <small>{_name(best['metric'])} {best['value']:.4g}</small>"


def _problems(problems: Sequence[str]) -> str:
    if not problems:
        return ""
    items = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
    return (
        f'<section class="problems" aria-labelledby="problems"><h2 id="problems">Not everything could be computed</h2>'
        f"<ul>{items}</ul></section>"
    )


def _held_out(held_out: Mapping[str, Any]) -> str:
    clusters = held_out["clusters"]
    if not clusters:
        return ""
    how = manner(held_out["shots"], held_out["templates"])
    each = "Every figure is the mean over the task's templates. " if held_out["templates"] == "each" else ""
    chosen = "The best template, chosen on one half of the examples; its figure is that of the other half."
    tables = [
        _table(title, note, clusters, key)
        for title, note, key in (
            ("Own metric of each task", f"Greedy answers, {how}. {each}A cluster is the mean over its tasks.", "score"),
            ("Own metric with each task's best template", chosen, "best"),
            (
                "Choosing among the given options",
                f"How often the right option has the highest likelihood (sum over its tokens), {how}.",
                "rank_accuracy",
            ),
            (
                "The same by the likelihood of a token",
                "How often the right option has the highest mean over its tokens, which does not favour short ones.",
                "rank_accuracy_normalized",
            ),
            ("Choosing among the given options with each task's best template", chosen, "best_rank"),
        )
    ]
    mark = _MARK if tables[2] else ""
    unseen = not any(task["seen"] for cluster in clusters for task in cluster["tasks"])
    trained = "No task of these clusters was trained on." if unseen else "Some of their data was trained on, see below."
    return (
        '<section aria-labelledby="held_out"><h2 id="held_out">Held-out clusters</h2>'
        f'<p class="about">{trained} All figures go from 0 to 100.</p>'
        f"{_exemplars(held_out)}{_LEGEND.format(mark=mark)}{''.join(tables)}</section>"
    )


def _exemplars(held_out: Mapping[str, Any]) -> str:
    """How many exemplars the questions had, if any were asked for."""
    tasks = [task for cluster in held_out["clusters"] for task in cluster["tasks"]]
    known = [task["after"] if task["after"] is not None else task["before"] for task in tasks]
    asked = [figures for figures, task in zip(known, tasks, strict=True) if task["num_examples"]]
    if not held_out["shots"] or not asked:
        return ""
    mean = sum(figures["shots"] for figures in asked) / len(asked)
    dropped = sum(figures["exemplars_dropped"] for figures in asked)
    return (
        f'<p class="about">Before each question stand {held_out["shots"]} answered training examples of its task, as '
        f"far as they fit: {mean:.1f} in the mean over tasks, {dropped:,} did not fit.</p>"
    )


def _table(caption: str, note: str, clusters: Sequence[Mapping[str, Any]], key: str) -> str:
    """Clusters and tasks that have the figure `key`; empty if none has."""
    rows = []
    for cluster in clusters:
        tasks = [task for task in cluster["tasks"] if _either(task, key)]
        single = len(tasks) == 1 and tasks[0]["task"] == cluster["cluster"]
        if tasks and not single:
            rows.append(_row("cluster", _name(cluster["cluster"]), cluster, key))
        for task in tasks:
            style = "cluster last" if single else "task last" if task is tasks[-1] else "task"
            name = f"{_name(task['task'])} <small>{escape(_about(task, key))}</small>"
            rows.append(_row(style, name, task, key))
    if not rows:
        return ""
    return (
        f"<table><caption>{caption}<small>{note}</small></caption><thead><tr>"
        '<th scope="col">Cluster and task</th><th scope="col">Before</th><th scope="col">After</th>'
        f'<th scope="col">Change</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def _about(task: Mapping[str, Any], key: str) -> str:
    """What stands below a task's name: its metric, or its best template before and after."""
    if key in ("best", "best_rank"):
        chosen = [figures[f"{key}_template"] for m in ("before", "after") if (figures := task[m]) is not None]
        numbers = [str(one["template"] + 1) for one in chosen if one is not None]
        count = max(len(task[m]["templates"]) for m in ("before", "after") if task[m] is not None)
        return f"template {', then '.join(dict.fromkeys(numbers))} of {count}"
    seen = f"; the model was trained on the same data: {', '.join(task['seen'])}" if task["seen"] else ""
    return (f"{task['metric']}, " if key == "score" else "") + f"{task['num_examples']:,} examples{seen}"


def _row(style: str, name: str, figures: Mapping[str, Any], key: str) -> str:
    before, after = (_figure(figures[moment], key) for moment in ("before", "after"))
    known = figures["after"] if figures["after"] is not None else figures["before"]
    chance = _figure(known, "rank_chance") if key in _RANKED else None
    change = "" if before is None or after is None else _difference(before, after)
    return (
        f'<tr class="{style}"><th scope="row"><div class="row"><span class="name">{name}</span>'
        f'{bars(before, after, chance)}</div></th><td class="from">{_score(before)}</td><td>{_score(after)}</td>'
        f"<td>{change}</td></tr>"
    )


def _training(records: Sequence[Mapping[str, Any]], train: Mapping[str, Any]) -> str:
    loss, held = _points(records, "train", "loss"), _points(records, "validation", "loss")
    losses = [
        Series("each step" if len(loss) > 20 else "", "raw", loss),
        Series("training, smoothed" if len(loss) > 20 else "training", "train", smoothed(loss)),
        Series("validation", "validation", held, dots=len(held) <= 40),
    ]
    rate = [Series("", "train", _points(records, "train", "learning_rate"))]
    right = _points(records, "validation", "accuracy")
    accuracy = [
        Series("training, smoothed", "train", smoothed(_points(records, "train", "accuracy"))),
        Series("validation", "validation", right, dots=len(right) <= 40),
    ]
    charts = line_chart("Loss", losses, x_label="step")
    charts += line_chart("Accuracy of tokens", accuracy, x_label="step") if right else ""
    charts += line_chart("Learning rate", rate, x_label="step", zero=True)
    if not charts:
        return ""
    return (
        '<section aria-labelledby="training"><h2 id="training">Training</h2>'
        '<p class="about">Loss in nats: per trained token in validation, as LOSS_NORMALIZING_FACTOR weighs tokens in '
        "training. Accuracy is the share of trained tokens that the model finds likeliest. Instructions and padding "
        f'never count.</p><div class="charts">{charts}</div>{_validation_table(train["validation_tasks"])}</section>'
    )


def _validation_table(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """Loss and accuracy of each trained task at the first and the last validation."""
    if not tasks:
        return ""
    columns = ("first_loss", "last_loss", "first_accuracy", "last_accuracy")
    head = "".join(f'<th scope="col">{name.replace("_", " ").capitalize()}</th>' for name in columns)
    rows = "".join(
        f'<tr><th scope="row" class="name">{_name(task)}</th>'
        + "".join(f"<td>{_optional(figures[c], '{:.3f}'.format if 'loss' in c else _score)}</td>" for c in columns)
        + "</tr>"
        for task, figures in tasks.items()
    )
    table = f'<table><thead><tr><th scope="col">Task</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return _folded("Validation by task", "unseen examples of the tasks that are trained on, accuracy 0-100", table)


def _points(records: Iterable[Mapping[str, Any]], kind: str, name: str) -> list[tuple[float, float]]:
    points = [(record["step"], record.get(name)) for record in records if record.get("kind") == kind]
    # A difference with itself is 0 for finite numbers only.
    return [(float(x), float(y)) for x, y in points if isinstance(y, int | float) and y - y == 0]


def _examples(examples: Sequence[Mapping[str, Any]]) -> str:
    taken: dict[str, int] = {}
    shown = []
    for example in examples:
        taken[example["task"]] = taken.get(example["task"], 0) + 1
        if taken[example["task"]] <= EXAMPLES_PER_TASK:
            shown.append(example)
    if not shown:
        return ""
    cards = "".join(_example(example) for example in shown[:EXAMPLES_SHOWN])
    return (
        '<section aria-labelledby="examples"><h2 id="examples">Examples</h2>'
        f'<p class="about">The first {EXAMPLES_PER_TASK} that were asked of each task, not picked by hand. '
        f"{len(examples):,} are in report.json.</p>{cards}</section>"
    )


def _example(example: Mapping[str, Any]) -> str:
    answers = [(m, example[m]) for m in ("before", "after") if example[m] is not None]
    alone = " alone" if len(answers) == 1 else ""
    cells = "".join(
        f'<div class="pair answer{alone}"><dt>{moment.capitalize()} training'
        f"{_right(text, example['target'])}</dt><dd>{_text(text)}</dd></div>"
        for moment, text in answers
    )
    return (
        f'<article class="example"><header><h3>{_name(example["task"])}</h3>'
        f"<span>{escape(example['cluster'])}, example {example['index']}{_template(example)}</span></header><dl>"
        f"{_shown_exemplars(example['exemplars'])}"
        f'<div class="pair whole"><dt>Instruction</dt><dd>{_text(example["prompt"])}</dd></div>'
        f'<div class="pair whole"><dt>Wanted</dt><dd>{_text(example["target"])}</dd></div>{cells}</dl></article>'
    )


def _template(example: Mapping[str, Any]) -> str:
    return "" if example["template"] is None else f", template {example['template'] + 1}"


def _shown_exemplars(exemplars: Sequence[Sequence[str]]) -> str:
    if not exemplars:
        return ""
    pairs = "".join(f"<dt>{_text(inputs)}</dt><dd>{_text(targets)}</dd>" for inputs, targets in exemplars)
    title = f"{len(exemplars)} exemplar{'' if len(exemplars) == 1 else 's'}"
    folded = _folded(title, "", f'<dl class="pairs">{pairs}</dl>')
    return f'<div class="pair whole"><dt>Before it in the prompt</dt><dd>{folded}</dd></div>'


def _right(text: str, target: str) -> str:
    return '<span class="right">&#10003; as wanted</span>' if normalize(text) == normalize(target) else ""


def _text(text: str) -> str:
    if not text.strip():
        return '<span class="empty">nothing</span>'
    if len(text) > _LONGEST_TEXT:
        more = len(text) - _LONGEST_TEXT
        return f'{escape(text[:_LONGEST_TEXT])}<span class="empty"> … {more:,} more characters</span>'
    return escape(text)


def _run(report: Mapping[str, Any]) -> str:
    run = report["run"]
    environment = run.get("environment") or {}
    facts = {
        "model": run.get("model"),
        "parameters": f"{run['parameters']:,}" if run.get("parameters") else None,
        "mixture": run.get("mixture"),
        "held out": ", ".join(run.get("held_out") or ()),
        "data fingerprint": run.get("fingerprint"),
        **report["seeds"],
        **{name: value for name, value in environment.items() if name != "versions"},
        **{f"{name} version": value for name, value in (environment.get("versions") or {}).items()},
    }
    parts = []
    if pairs := _pairs(facts):
        parts.append(_folded("Model, data, machine and versions", "", f'<dl class="pairs">{pairs}</dl>'))
    if tasks := (run.get("realised") or {}).get("tasks"):
        parts.append(_folded("Mixture as it was drawn", "one epoch", _mixture_table(tasks)))
    if report["config"].strip():
        code = f'<pre tabindex="0">{escape(report["config"])}</pre>'
        parts.append(_folded("Configuration", "config.gin", code))
    if not parts:
        return ""
    return f'<section aria-labelledby="run"><h2 id="run">The run</h2>{"".join(parts)}</section>'


def _pairs(facts: Mapping[str, Any]) -> str:
    def value(fact: Any) -> str:
        if isinstance(fact, Mapping):
            return ", ".join(f"{name} {part}" for name, part in fact.items())
        return str(fact)

    return "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(value(fact))}</dd>"
        for name, fact in facts.items()
        if fact not in (None, "")
    )


def _mixture_table(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    columns = (("examples", "Examples"), ("epochs", "Epochs"), ("target_tokens", "Target tokens"))
    head = "".join(f'<th scope="col">{label}</th>' for _, label in columns)
    rows = "".join(
        f'<tr><th scope="row" class="name">{_name(name)}</th>'
        + "".join(f"<td>{_optional(task.get(key), short_number)}</td>" for key, _ in columns)
        + "</tr>"
        for name, task in tasks.items()
    )
    return f'<table><thead><tr><th scope="col">Task</th>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _folded(title: str, note: str, inside: str) -> str:
    return f'<details><summary>{title}<small>{note}</small></summary><div class="inside">{inside}</div></details>'


def _name(name: str) -> str:
    """A name that may be broken after its underscores and slashes."""
    return escape(name).replace("_", "_<wbr>").replace("/", "/<wbr>")


def _either(figures: Mapping[str, Any], key: str) -> bool:
    return any(_figure(figures[moment], key) is not None for moment in ("before", "after"))


def _figure(figures: Figures, key: str) -> float | None:
    return None if figures is None else figures[key]


def _score(value: float | None) -> str:
    return '<span aria-label="none">&ndash;</span>' if value is None else f"{value:.1f}"


def _difference(before: float, after: float) -> str:
    change = round(after, 1) - round(before, 1)
    if abs(change) < 0.05:
        return "<span>0.0</span>"
    style, sign = ("up", "+") if change > 0 else ("down", "−")
    return f'<span class="{style}">{sign}{abs(change):.1f}</span>'


def _change(first: float | None, last: float | None) -> str:
    if first is None or last is None:
        return ""
    return f"{first:.3f} {_ARROW} {last:.3f}"


def _optional(value: float | None, shown: Callable[[float], str]) -> str:
    return "" if value is None else shown(value)


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    if hours:
        return f"{hours} h {rest // 60} min"
    return f"{rest // 60} min {rest % 60} s" if rest >= 60 else f"{seconds:.1f} s"
