"""Quality against cost in one drawing: as PNG, as SVG, and as SVG that takes a page's colours."""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dsdiff.comparison.results import Arm, Judged, Row
from dsdiff.reporting.slice_views import plain

# A colour of the drawing -> the page's; where there is no page, the colour stands.
COLOURS = {"#1b1f24": "var(--ink)", "#5a626c": "var(--soft)", "#e1e5ea": "var(--line)", "#1f5fbf": "var(--blue)"}
INK, SOFT, LINE, BLUE = COLOURS
GAP, WIDE, TALL = 0.016, 0.0122, 0.042  # from a point to its name; a letter; a line of text: shares of a panel


class Box(NamedTuple):
    """A part of a panel, in shares of it."""

    left: float
    right: float
    low: float
    high: float

    def covers(self, other: "Box") -> bool:
        """Whether they share anything."""
        beside = self.right <= other.left or other.right <= self.left
        return not (beside or self.high <= other.low or other.high <= self.low)

    def inside(self) -> bool:
        """Whether all of it lies in the panel."""
        return self.left >= 0 and self.right <= 1 and self.low >= 0 and self.high <= 1


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
    figure.supxlabel(
        "seconds a volume (of the CPU; on a GPU of the clock); the line joins what nothing else beats",
        color=SOFT,
        fontsize=8,
    )
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
    """Names beside their points, each in the nearest place where it covers no point and no other name."""
    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    places = [(float((cost - left) / (right - left)), float((mean - low) / (high - low))) for _, cost, mean in points]
    taken = [Box(x - GAP / 2, x + GAP / 2, y - TALL / 4, y + TALL / 4) for x, y in places]
    for (name, *_), (x, y) in sorted(zip(points, places, strict=True), key=lambda one: -one[1][1]):
        wide = WIDE * len(name)
        spots = [
            Box(start, start + wide, y + up - TALL / 2, y + up + TALL / 2)
            for up in sorted((0.6 * TALL * step for step in range(-6, 7)), key=lambda up: (abs(up - 0.6 * TALL), up))
            for start in (x + GAP, x - GAP - wide)
        ]
        free = [spot for spot in spots if spot.inside() and not any(spot.covers(other) for other in taken)]
        spot = (free or spots)[0]
        taken.append(spot)
        to_right, middle = spot.left > x, (spot.low + spot.high) / 2
        line = {"arrowstyle": "-", "color": LINE, "linewidth": 0.8} if abs(middle - y) > 2 * TALL else None
        axis.annotate(
            plain(name), (x, y), (spot.left if to_right else spot.right, middle), "axes fraction", "axes fraction",
            fontsize=7.5, color=INK, ha="left" if to_right else "right", va="center", arrowprops=line,
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
    (folder / "front.svg").write_text(text, encoding="utf-8")
    figure.savefig(folder / "front.png", metadata={"Software": None})
    return text
