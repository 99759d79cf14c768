"""Quality against cost with its Pareto front, as PNG, as SVG, and as SVG in the colors of an HTML page."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dsdiff.comparison_report.results import ArmResult, MethodResult, PrimaryMetric
from dsdiff.reporting import figures

# A color of the figure -> the color of the page; outside a page the color itself is used.
CSS_COLORS = {"#1b1f24": "var(--ink)", "#5a626c": "var(--soft)", "#e1e5ea": "var(--line)", "#1f5fbf": "var(--blue)"}
INK, SOFT, LINE, BLUE = CSS_COLORS
# Fractions of a panel.
LABEL_GAP = 0.016  # from a point to its label
LETTER_WIDTH = 0.0122
LINE_HEIGHT = 0.042


class Point(NamedTuple):
    """A method in a panel: its cost, and its mean score with the interval."""

    name: str
    cost: float
    mean: float
    low: float
    high: float


class LabelBox(NamedTuple):
    """A rectangle in a panel, in fractions of the panel."""

    left: float
    right: float
    low: float
    high: float

    def overlaps(self, other: "LabelBox") -> bool:
        """Check whether two rectangles overlap.

        Args:
            other: The other rectangle.

        Returns:
            True if they share an area.
        """
        is_separate_in_x = self.right <= other.left or other.right <= self.left
        is_separate_in_y = self.high <= other.low or other.high <= self.low
        return not (is_separate_in_x or is_separate_in_y)

    def is_inside_panel(self) -> bool:
        """Check whether the panel contains the rectangle.

        Returns:
            True if no part is outside.
        """
        return self.left >= 0 and self.right <= 1 and self.low >= 0 and self.high <= 1


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Find the points that no other point dominates: none is cheaper and as good, or better and as cheap.

    Args:
        points: (cost, quality) of each point; low cost and high quality are good.

    Returns:
        Indices of the front, by rising cost.
    """
    order = sorted(range(len(points)), key=lambda k: (points[k][0], -points[k][1]))
    front: list[int] = []
    for k in order:
        if not front or points[k][1] > points[front[-1]][1]:
            front.append(k)
    return front


def plot_quality_against_cost(arms: Sequence[ArmResult], metrics: Sequence[PrimaryMetric]) -> Figure:
    """Plot mean and interval of each metric against the synthesis time, with the Pareto front.

    Args:
        arms: One row of panels for each arm.
        metrics: One column of panels for each metric.

    Returns:
        The figure.
    """
    width, height = 5.2 * len(metrics), 3.9 * len(arms)
    figure = figures.new_figure(width, height, figures.LIGHT_BACKGROUND, 150, "constrained")
    panels = figure.subplots(len(arms), len(metrics), squeeze=False)
    for row, arm in zip(panels, arms, strict=True):
        for axis, metric in zip(row, metrics, strict=True):
            _plot_panel(axis, arm.methods, metric)
            axis.set_title(f"{arm.title}: {metric.title}", color=INK, fontsize=9, loc="left")

    figure.supxlabel(
        "seconds per volume (CPU time; wall-clock time on a GPU); the line is the Pareto front",
        color=SOFT,
        fontsize=8,
    )
    return figure


def _plot_panel(axis: Axes, methods: Sequence[MethodResult], metric: PrimaryMetric) -> None:
    points = _panel_points(methods, metric)
    for point in points:
        axis.plot([point.cost, point.cost], [point.low, point.high], color=SOFT, linewidth=1, alpha=0.6)
        axis.plot(point.cost, point.mean, "o", color=BLUE, markersize=5)
    front = [points[k] for k in pareto_front([(point.cost, point.mean) for point in points])]
    front_costs = [point.cost for point in front]
    axis.step(front_costs, [point.mean for point in front], where="post", color=BLUE, linewidth=1.2)

    axis.margins(x=0.22)
    _label_points(axis, points)
    axis.patch.set_alpha(0)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.tick_params(colors=SOFT, labelsize=7.5)
    axis.grid(color=LINE, linewidth=0.7)
    axis.set_axisbelow(True)
    for spine in axis.spines.values():
        spine.set_color(LINE)


def _panel_points(methods: Sequence[MethodResult], metric: PrimaryMetric) -> list[Point]:
    """The methods with a cost and a finite mean score."""
    points = []
    for method in methods:
        if not method.seconds_per_volume or metric.score not in method.scores:
            continue
        mean, low, high = method.interval(metric.score)
        if mean == mean:
            points.append(Point(method.name, method.seconds_per_volume, mean, low, high))
    return points


def _label_points(axis: Axes, points: Sequence[Point]) -> None:
    """Write names beside their points, each at the nearest place where it covers no point and no other name."""
    left, right = axis.get_xlim()
    low, high = axis.get_ylim()
    positions = [
        (float((point.cost - left) / (right - left)), float((point.mean - low) / (high - low))) for point in points
    ]
    occupied = [
        LabelBox(x - LABEL_GAP / 2, x + LABEL_GAP / 2, y - LINE_HEIGHT / 4, y + LINE_HEIGHT / 4) for x, y in positions
    ]
    for point, (x, y) in sorted(zip(points, positions, strict=True), key=lambda pair: -pair[1][1]):
        candidates = _label_candidates(x, y, LETTER_WIDTH * len(point.name))
        free = [box for box in candidates if box.is_inside_panel() and not _overlaps_any(box, occupied)]
        box = (free or candidates)[0]
        occupied.append(box)
        _write_label(axis, point.name, (x, y), box)


def _label_candidates(x: float, y: float, width: float) -> list[LabelBox]:
    """Places for a label beside a point, the nearest first; slightly above the point is preferred."""
    offsets = [0.6 * LINE_HEIGHT * step for step in range(-6, 7)]
    offsets.sort(key=lambda offset: (abs(offset - 0.6 * LINE_HEIGHT), offset))
    boxes = []
    for offset in offsets:
        for left in (x + LABEL_GAP, x - LABEL_GAP - width):
            boxes.append(LabelBox(left, left + width, y + offset - LINE_HEIGHT / 2, y + offset + LINE_HEIGHT / 2))
    return boxes


def _overlaps_any(box: LabelBox, boxes: Sequence[LabelBox]) -> bool:
    return any(box.overlaps(other) for other in boxes)


def _write_label(axis: Axes, name: str, position: tuple[float, float], box: LabelBox) -> None:
    """Write a label, with a line to its point if it is far away."""
    x, y = position
    is_right_of_point = box.left > x
    middle = (box.low + box.high) / 2
    is_far = abs(middle - y) > 2 * LINE_HEIGHT
    axis.annotate(
        figures.escape_math(name),
        position,
        (box.left if is_right_of_point else box.right, middle),
        "axes fraction",
        "axes fraction",
        fontsize=7.5,
        color=INK,
        ha="left" if is_right_of_point else "right",
        va="center",
        arrowprops={"arrowstyle": "-", "color": LINE, "linewidth": 0.8} if is_far else None,
    )


def inline_svg(svg: str) -> Markup:
    """Prepare an SVG for an HTML page: no file header, transparent, in the colors of the page.

    Args:
        svg: Output of `figures.render_svg`.

    Returns:
        The `<svg>` element.
    """
    body = svg[svg.index("<svg") :].replace("fill: #ffffff", "fill: none")
    body = body.replace("<svg", '<svg role="img" aria-label="Quality against cost, one point per method"', 1)
    for color, css_color in CSS_COLORS.items():
        body = body.replace(color, css_color)
    return Markup(body)


def save_figure(figure: Figure, folder: Path) -> str:
    """Write front.svg and front.png.

    Args:
        figure: The figure.
        folder: Folder to write to.

    Returns:
        The SVG file as text.
    """
    svg = figures.render_svg(figure)
    (folder / "front.svg").write_text(svg, encoding="utf-8")
    figures.save_png(figure, folder / "front.png")
    return svg
