"""Line charts and bars as inline SVG, coloured by the page's style sheet, and histograms as a file of their own."""

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

WIDTH, HEIGHT = 480, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 12, 12, 34
_MOST_POINTS = 400
# The colours of report.css, for drawings that stand alone.
_COLOURS = (
    ".paper{fill:#fcfbf8}.bar{fill:#0f6b67}.grid{stroke:#e4dfd5;stroke-width:.6}text{fill:#625c52}"
    ".title{fill:#1f1d1a;font-size:11px;font-weight:600}"
    "@media (prefers-color-scheme:dark){.paper{fill:#171614}.bar{fill:#4fb8b0}.grid{stroke:#35322d}text{fill:#aaa397}"
    ".title{fill:#ece8e1}}"
)

Point = tuple[float, float]


class Series(NamedTuple):
    """One line of a chart.

    Attributes:
        label: what it is, shown in the legend; empty for a line that needs none.
        style: class that colours it in the style sheet.
        points: (x, y), x ascending, all finite.
        dots: whether the points are marked.
    """

    label: str
    style: str
    points: Sequence[Point]
    dots: bool = False


def line_chart(title: str, series: Sequence[Series], *, x_label: str, zero: bool = False) -> str:
    """A chart with its legend, as an HTML figure; empty text if there is nothing to draw.

    Args:
        title: the figure's caption.
        series: lines, later ones on top.
        x_label: what x counts.
        zero: whether the y axis has to start at 0.
    """
    series = [one for one in series if one.points]
    if not series:
        return ""
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(0.0 if zero else min(ys), max(ys))
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1e-9)
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def place(point: Point) -> Point:
        x = _LEFT + (point[0] - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT)
        y = HEIGHT - _BOTTOM - (point[1] - y_low) / (y_high - y_low) * (HEIGHT - _TOP - _BOTTOM)
        return round(x, 1), round(y, 1)

    parts = []
    for tick in y_ticks:
        _, y = place((x_low, tick))
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{short_number(tick)}</text>')
    for tick in x_ticks:
        if x_low <= tick <= x_high:
            x, _ = place((tick, y_low))
            anchor = "end" if x > WIDTH - _RIGHT - 16 else "middle"
            parts.append(f'<text x="{x}" y="{HEIGHT - 14}" text-anchor="{anchor}">{short_number(tick)}</text>')
    for one in series:
        parts.append(_line([place(point) for point in thinned(one.points)], one))
    summary = f"{title}: " + "; ".join(_described(one) for one in series)
    legend = "".join(
        f'<span class="key"><i class="{one.style}"></i>{escape(one.label)}</span>' for one in series if one.label
    )
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b>{legend}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(summary)}">{"".join(parts)}</svg>'
        f'<p class="axis">{escape(x_label)}</p></figure>'
    )


def bars(before: float | None, after: float | None, chance: float | None = None) -> str:
    """Two bars from 0 to 100, with a mark where guessing would end; decoration beside numbers, so hidden from readers.

    Args:
        before: upper bar, None for none.
        after: lower bar, None for none.
        chance: the mark, None for none.
    """
    parts = ['<rect class="track" width="100" height="10" rx="1.5"/>']
    for value, style, y in ((before, "before", 0), (after, "after", 5)):
        if value is not None:
            width = min(max(value, 0.0), 100.0)
            parts.append(f'<rect class="{style}" width="{width:.2f}" height="5" y="{y}"/>')
    if chance is not None:
        parts.append(f'<rect class="mark" x="{min(max(chance, 0.0), 99.6):.2f}" width="0.4" height="10"/>')
    return (
        f'<svg class="bars" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">{"".join(parts)}</svg>'
    )


class Panel(NamedTuple):
    """One histogram of a drawing.

    Attributes:
        title: what is counted.
        bars: (label, count), in order.
    """

    title: str
    bars: Sequence[tuple[str, int]]


def histogram_page(panels: Sequence[Panel]) -> str:
    """Histograms, one below the other, as an SVG file with its own colours, light and dark.

    Args:
        panels: each with at least one bar.
    """
    parts = [part for i, panel in enumerate(panels) for part in _histogram(panel, i * HEIGHT)]
    size = f'width="{2 * WIDTH}" height="{2 * HEIGHT * len(panels)}" viewBox="0 0 {WIDTH} {HEIGHT * len(panels)}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="system-ui, sans-serif" font-size="9">'
        f"<style>{_COLOURS}</style>"
        f'<rect class="paper" width="100%" height="100%"/>{"".join(parts)}</svg>\n'
    )


def _histogram(panel: Panel, top: int) -> list[str]:
    marks = ticks(0, max(1, *(count for _, count in panel.bars)))
    floor, height = top + HEIGHT - _BOTTOM - 20, HEIGHT - _TOP - _BOTTOM - 42
    step = (WIDTH - _LEFT - _RIGHT) / len(panel.bars)
    parts = [f'<text class="title" x="{_LEFT}" y="{top + _TOP + 8}">{escape(panel.title)}</text>']
    for mark in marks:
        y = round(floor - height * mark / marks[-1], 1)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 3}" text-anchor="end">{short_number(mark)}</text>')
    for i, (label, count) in enumerate(panel.bars):
        x, tall = _LEFT + i * step, height * count / marks[-1]
        parts.append(
            f'<rect class="bar" x="{x + 1:.1f}" width="{max(step - 2, 1):.1f}" y="{floor - tall:.1f}" '
            f'height="{tall:.1f}"><title>{escape(label)}: {count:,}</title></rect>'
        )
        middle = round(x + step / 2, 1)
        parts.append(
            f'<text x="{middle}" y="{floor + 10}" text-anchor="end" transform="rotate(-40 {middle} {floor + 10})">'
            f"{escape(label)}</text>"
        )
    return parts


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers, evenly spaced, from at most `low` to at least `high`; always at least two."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = low - 0.5 * abs(low or 1.0), high + 0.5 * abs(high or 1.0)
    raw = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def thinned(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """At most `most` points: means over runs of neighbours, first and last point kept."""
    if len(points) <= most:
        return list(points)
    inner = most - 2
    edges = [1 + i * (len(points) - 2) // inner for i in range(inner + 1)]
    means = [
        (sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run))
        for run in (points[a:b] for a, b in pairwise(edges))
    ]
    return [points[0], *means, points[-1]]


def smoothed(points: Sequence[Point], share: float = 0.06) -> list[Point]:
    """Each point's y as the mean over its neighbours: a window of about `share` of all points, cut off at the ends."""
    reach = max(1, round(len(points) * share / 2))
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    out = []
    for i, (x, _) in enumerate(points):
        first, last = max(0, i - reach), min(len(points), i + reach + 1)
        out.append((x, (sums[last] - sums[first]) / (last - first)))
    return out


def short_number(value: float) -> str:
    """A number of an axis or a fact in few characters: 12k, 3.4M, 0.05, 2e-05."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.4g}{letter}"
    if value and abs(value) < 1e-3:
        return f"{value:.2g}".replace("e-0", "e-")
    return f"{value:.4g}"


def _line(points: Sequence[Point], series: Series) -> str:
    path = "M" + "L".join(f"{x} {y}" for x, y in points)
    marks = "".join(f'<circle class="{series.style}" cx="{x}" cy="{y}" r="3.5"/>' for x, y in points)
    return f'<path class="{series.style}" d="{path}"/>' + (marks if series.dots or len(points) == 1 else "")


def _described(series: Series) -> str:
    (x0, y0), (x1, y1) = series.points[0], series.points[-1]
    return f"{series.label or 'line'} from {short_number(y0)} at {x0:.0f} to {short_number(y1)} at {x1:.0f}"
