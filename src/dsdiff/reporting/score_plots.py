"""Plots as inline SVG: they take the page's colours (light, dark, print) and name the patient under the pointer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

from dsdiff.evaluation.statistics import Agreement

WIDTH, LEFT, RIGHT, ROW = 640.0, 170.0, 20.0, 44.0  # pixels of the drawing; it scales with the page


@dataclass(frozen=True)
class Axis:
    """Data from `low` to `high` on pixels from `start` to `stop`."""

    low: float
    high: float
    start: float
    stop: float

    def at(self, value: float) -> float:
        """The pixel of a value."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 1)

    def ticks(self) -> list[float]:
        """Round values within the axis."""
        values = MaxNLocator(5).tick_values(self.low, self.high)
        return [float(value) for value in values if self.low <= value <= self.high]


def spanning(values: Sequence[float], start: float, stop: float) -> Axis:
    """An axis with a little room about the values."""
    low, high = float(min(values)), float(max(values))
    room = 0.06 * (high - low) or 0.5
    return Axis(low - room, high + room, start, stop)


def box_plot(rows: Mapping[str, Mapping[str, float]], unit: str, marks: Mapping[str, float]) -> Markup:
    """One horizontal box a row (quartiles, median, whiskers within 1.5 box lengths) with every patient as a dot.

    rows: label -> patient -> value, NaN left out. marks: label -> value of a dashed line, such as chance.
    """
    finite = {row: {p: v for p, v in found.items() if np.isfinite(v)} for row, found in rows.items()}
    finite = {row: found for row, found in finite.items() if found}
    if not finite:
        return Markup("")
    every = [v for found in finite.values() for v in found.values()] + [marks[row] for row in finite if row in marks]
    axis = spanning(every, LEFT, WIDTH - RIGHT)
    height = ROW * len(finite) + 34
    body = [_vertical(axis, height - 26)]
    for k, (label, found) in enumerate(finite.items()):
        middle = ROW * k + ROW / 2 + 4
        if label in marks:
            x = axis.at(marks[label])
            body.append(f'<line class="mark" x1="{x}" x2="{x}" y1="{middle - 18}" y2="{middle + 18}"/>')
        body.append(f'<text x="{LEFT - 12}" y="{middle + 4}" text-anchor="end">{escape(label)}</text>')
        body.append(_box(list(found.values()), axis, middle) + _dots(found, axis, middle))
    body.append(f'<text class="soft" x="{WIDTH - RIGHT}" y="{height - 1}" text-anchor="end">{escape(unit)}</text>')
    return _svg(height, f"Box plots: {', '.join(finite)}", body)


def _box(values: Sequence[float], axis: Axis, middle: float) -> str:
    q1, median, q3 = np.percentile(values, (25, 50, 75))
    near = [v for v in values if q1 - 1.5 * (q3 - q1) <= v <= q3 + 1.5 * (q3 - q1)]
    left, right = axis.at(q1), axis.at(q3)
    return (
        f'<line class="whisker" x1="{axis.at(min(near))}" x2="{axis.at(max(near))}" y1="{middle}" y2="{middle}"/>'
        f'<rect class="box" x="{left}" width="{round(max(right - left, 1), 1)}" y="{middle - 9}" height="18" rx="3"/>'
        f'<line class="median" x1="{axis.at(median)}" x2="{axis.at(median)}" y1="{middle - 9}" y2="{middle + 9}"/>'
    )


def _dots(found: Mapping[str, float], axis: Axis, middle: float) -> str:
    shifts = [round(14 * (((k * 0.618) % 1) - 0.5), 1) for k in range(len(found))]  # spread evenly, the same every time
    return "".join(
        f'<circle class="dot" cx="{axis.at(value)}" cy="{middle + shift}" r="2.6">'
        f"<title>{escape(patient)}: {value:.3g}</title></circle>"
        for (patient, value), shift in zip(found.items(), shifts, strict=True)
    )


def bland_altman(made: Mapping[str, float], true: Mapping[str, float], found: Agreement) -> Markup:
    """Synthetic minus acquired against their mean, in ml, with the bias and the limits that hold 95 % of patients."""
    points = {p: ((made[p] + true[p]) / 2, made[p] - true[p]) for p in made if np.isfinite(made[p] + true[p])}
    height = 300.0
    x = spanning([0.0, *(mean for mean, _ in points.values())], 70.0, WIDTH - 130)
    y = spanning([0.0, found.limit_low, found.limit_high, *(d for _, d in points.values())], height - 48, 24.0)
    lines = {"zero": (0.0, ""), "bias": (found.bias, "bias"), "limit": (found.limit_low, "-1.96 SD")}
    lines["upper limit"] = (found.limit_high, "+1.96 SD")
    body = [_vertical(x, height - 40), _horizontal(y, x)]
    for kind, (value, text) in lines.items():
        at = y.at(value)
        body.append(f'<line class="{kind.split()[-1]}" x1="{x.start}" x2="{x.stop}" y1="{at}" y2="{at}"/>')
        if text:
            body.append(f'<text x="{x.stop + 8}" y="{at + 4}">{text} {value:+.1f}</text>')
    body += [
        f'<circle class="dot" cx="{x.at(mean)}" cy="{y.at(d)}" r="3.2"><title>{escape(p)}: {d:+.1f} ml</title></circle>'
        for p, (mean, d) in points.items()
    ]
    body.append(f'<text class="soft" x="{x.stop}" y="{height - 2}" text-anchor="end">mean of the two, ml</text>')
    body.append('<text class="soft" x="8" y="10">synthetic minus acquired, ml</text>')
    return _svg(height, "Bland-Altman plot of the enhancing volume", body)


def calibration_curve(mean: Mapping[float, float], patients: Mapping[str, Mapping[float, float]]) -> Markup:
    """Share of voxels whose truth the interval holds, against what the interval says; the diagonal is perfect."""
    height = 330.0
    x, y = Axis(0.0, 1.0, 70.0, 340.0), Axis(0.0, 1.0, height - 48, 24.0)
    body = [_vertical(x, height - 40), _horizontal(y, x)]
    body.append(f'<line class="mark" x1="{x.start}" y1="{y.start}" x2="{x.stop}" y2="{y.stop}"/>')
    body += [f'<polyline class="one" points="{_points(curve, x, y)}"><title>{escape(p)}</title></polyline>'
             for p, curve in patients.items()]  # fmt: skip
    body.append(f'<polyline class="curve" points="{_points(mean, x, y)}"/>')
    body.append(f'<text class="soft" x="{x.stop}" y="{height - 2}" text-anchor="end">what the interval says</text>')
    body.append('<text class="soft" x="8" y="10">what it holds</text>')
    notes = ("thick: mean over patients", "thin: each patient", "dashed: perfect", "below it: overconfident")
    body += [f'<text class="soft" x="{x.stop + 24}" y="{40 + 20 * k}">{note}</text>' for k, note in enumerate(notes)]
    return _svg(height, "Calibration curve", body)


def _points(curve: Mapping[float, float], x: Axis, y: Axis) -> str:
    return " ".join(f"{x.at(level)},{y.at(share)}" for level, share in sorted(curve.items()) if np.isfinite(share))


def _vertical(axis: Axis, bottom: float) -> str:
    return "".join(
        f'<line class="grid" x1="{axis.at(v)}" x2="{axis.at(v)}" y1="4" y2="{bottom}"/>'
        f'<text class="soft" x="{axis.at(v)}" y="{bottom + 15}" text-anchor="middle">{v:g}</text>'
        for v in axis.ticks()
    )


def _horizontal(axis: Axis, across: Axis) -> str:
    return "".join(
        f'<line class="grid" x1="{across.start}" x2="{across.stop}" y1="{axis.at(v)}" y2="{axis.at(v)}"/>'
        f'<text class="soft" x="{across.start - 8}" y="{axis.at(v) + 4}" text-anchor="end">{v:g}</text>'
        for v in axis.ticks()
    )


def _svg(height: float, label: str, body: Sequence[str]) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" aria-label="{escape(label)}">{"".join(body)}</svg>'
    )
