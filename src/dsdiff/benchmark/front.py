"""Quality against cost in one drawing: as PNG, as SVG, and as SVG that takes a page's colours."""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dsdiff.benchmark.compare import Arm, Judged, Row

# A colour of the drawing -> the page's; where there is no page, the colour stands.
COLOURS = {"#1b1f24": "var(--ink)", "#5a626c": "var(--soft)", "#e1e5ea": "var(--line)", "#1f5fbf": "var(--blue)"}
INK, SOFT, LINE, BLUE = COLOURS


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which points no other beats, by cost (first, less is better): neither cheaper as good nor better as cheap."""
    order = sorted(range(len(points)), key=lambda k: (points[k][0], -points[k][1]))
    front: list[int] = []
    for k in order:
        if not front or points[k][1] > points[front[-1]][1]:
            front.append(k)
    return front


def draw(arms: Sequence[Arm], scores: Sequence[Judged]) -> Figure:
    """A row for each arm, a column for each score: mean and interval against the seconds of a volume, and the front."""
    size = (5.2 * len(scores), 3.9 * len(arms))
    figure = Figure(figsize=size, dpi=150, layout="constrained", facecolor="white")
    for axes, arm in zip(figure.subplots(len(arms), len(scores), squeeze=False), arms, strict=True):
        for axis, one in zip(axes, scores, strict=True):
            _panel(axis, [row for row in arm.rows if row.volume], one)
            axis.set_title(f"{arm.title}: {one.title}", color=INK, fontsize=9, loc="left")
    figure.supxlabel("CPU seconds a volume; the line joins what nothing else beats", color=SOFT, fontsize=8)
    return figure


def _panel(axis: Axes, rows: Sequence[Row], one: Judged) -> None:
    found = [(row.name, row.volume or 0.0, *row.interval(one.score)) for row in rows if one.score in row.scores]
    found = [point for point in found if point[2] == point[2]]
    for _, cost, mean, low, high in found:
        axis.plot([cost, cost], [low, high], color=SOFT, linewidth=1, alpha=0.6)
        axis.plot(cost, mean, "o", color=BLUE, markersize=5)
    front = [found[k] for k in pareto([(cost, mean) for _, cost, mean, *_ in found])]
    axis.step([p[1] for p in front], [p[2] for p in front], where="post", color=BLUE, linewidth=1.2)
    axis.margins(x=0.22)
    _label(axis, [point[:3] for point in found])
    axis.patch.set_alpha(0)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.tick_params(colors=SOFT, labelsize=7.5)
    axis.grid(color=LINE, linewidth=0.7)
    axis.set_axisbelow(True)
    for spine in axis.spines.values():
        spine.set_color(LINE)


def _label(axis: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Names beside their points, to the right of those on the left and the other way round, none over another."""
    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    least = 0.045 * (high - low)
    above = 0.6 * least  # so that the line of the front runs below
    placed: dict[bool, list[float]] = {True: [], False: []}
    for name, cost, mean in sorted(points, key=lambda point: -point[2]):
        on_left = cost < (left + right) / 2
        others = placed[on_left]
        place = min([mean + above, *(other - least for other in others if other - least < mean + above)])
        others.append(place)
        where = (cost + (0.015 if on_left else -0.015) * (right - left), place)
        line = {"arrowstyle": "-", "color": LINE, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
        axis.annotate(
            name, (cost, mean), where, fontsize=7.5, color=INK, ha="left" if on_left else "right", va="center",
            arrowprops=line if mean - place > least else None,
        )  # fmt: skip


def svg(figure: Figure) -> str:
    """A figure as SVG, the same text for the same picture; its letters stay letters."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "dsdiff", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(r"<metadata>.*?</metadata>\s*", "", buffer.getvalue(), flags=re.DOTALL)


def inline(text: str) -> Markup:
    """An SVG for a page: without the file's head and ground, in the page's colours."""
    body = text[text.index("<svg") :].replace("fill: #ffffff", "fill: none")
    body = body.replace("<svg", '<svg role="img" aria-label="Quality against cost, a point a method"', 1)
    for colour, name in COLOURS.items():
        body = body.replace(colour, name)
    return Markup(body)


def save(figure: Figure, folder: Path) -> str:
    """Write front.svg and front.png; returns the SVG."""
    text = svg(figure)
    (folder / "front.svg").write_text(text)
    figure.savefig(folder / "front.png", metadata={"Software": None})
    return text
