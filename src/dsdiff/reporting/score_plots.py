"""Plots of scores as inline SVG, in the colors of the page (light, dark, print); tooltips name the patient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

from dsdiff.evaluation.statistics import BlandAltman

# In pixels of the drawing, which scales with the page.
WIDTH = 640.0
LEFT, RIGHT = 195.0, 20.0  # margins of a box plot; the left one holds the row labels
ROW_HEIGHT = 44.0
JITTER = 14  # height of the band of dots
GOLDEN_RATIO = 0.618  # its multiples spread the dots evenly, the same in every run


@dataclass(frozen=True)
class Axis:
    """Maps data from `low` to `high` to pixels from `start` to `stop`."""

    low: float
    high: float
    start: float
    stop: float

    def to_pixel(self, value: float) -> float:
        """Map a value.

        Args:
            value: A value of the data.

        Returns:
            Its pixel, to a tenth.
        """
        fraction = (value - self.low) / (self.high - self.low)
        return round(self.start + fraction * (self.stop - self.start), 1)

    def ticks(self) -> list[float]:
        """Choose round values within the axis.

        Returns:
            About five values.
        """
        values = MaxNLocator(5).tick_values(self.low, self.high)
        return [float(value) for value in values if self.low <= value <= self.high]


def axis_around(values: Sequence[float], start: float, stop: float) -> Axis:
    """Make an axis that spans values, with a margin.

    Args:
        values: The values, at least one.
        start: First pixel.
        stop: Last pixel.

    Returns:
        The axis.
    """
    low, high = float(min(values)), float(max(values))
    margin = 0.06 * (high - low) or 0.5
    return Axis(low - margin, high + margin, start, stop)


def box_plot(rows: Mapping[str, Mapping[str, float]], unit: str, references: Mapping[str, float]) -> Markup:
    """Plot one horizontal box per row: quartiles, median, whiskers within 1.5 box lengths, and a dot per patient.

    Args:
        rows: Row label -> patient -> value; NaN is left out.
        unit: Unit below the axis.
        references: Row label -> value of a dashed line, such as chance.

    Returns:
        An `<svg>` element; empty without values.
    """
    finite_rows = {label: _finite(values) for label, values in rows.items()}
    finite_rows = {label: values for label, values in finite_rows.items() if values}
    if not finite_rows:
        return Markup("")

    spanned = [value for values in finite_rows.values() for value in values.values()]
    spanned += [references[label] for label in finite_rows if label in references]
    axis = axis_around(spanned, LEFT, WIDTH - RIGHT)
    height = ROW_HEIGHT * len(finite_rows) + 34

    body = [_vertical_grid(axis, height - 26)]
    for k, (label, values) in enumerate(finite_rows.items()):
        y = ROW_HEIGHT * k + ROW_HEIGHT / 2 + 4
        if label in references:
            x = axis.to_pixel(references[label])
            body.append(f'<line class="reference" x1="{x}" x2="{x}" y1="{y - 18}" y2="{y + 18}"/>')
        body.append(f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{escape(label)}</text>')
        body.append(_box(list(values.values()), axis, y) + _dots(values, axis, y))
    body.append(f'<text class="soft" x="{WIDTH - RIGHT}" y="{height - 1}" text-anchor="end">{escape(unit)}</text>')
    return _svg(height, f"Box plots: {', '.join(finite_rows)}", body)


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {patient: value for patient, value in values.items() if np.isfinite(value)}


def _box(values: Sequence[float], axis: Axis, y: float) -> str:
    q1, median, q3 = np.percentile(values, (25, 50, 75))
    whisker = 1.5 * (q3 - q1)
    inliers = [value for value in values if q1 - whisker <= value <= q3 + whisker]
    x_low, x_high = axis.to_pixel(min(inliers)), axis.to_pixel(max(inliers))
    x_q1, x_median, x_q3 = axis.to_pixel(q1), axis.to_pixel(median), axis.to_pixel(q3)
    width = round(max(x_q3 - x_q1, 1), 1)
    return (
        f'<line class="whisker" x1="{x_low}" x2="{x_high}" y1="{y}" y2="{y}"/>'
        f'<rect class="box" x="{x_q1}" width="{width}" y="{y - 9}" height="18" rx="3"/>'
        f'<line class="median" x1="{x_median}" x2="{x_median}" y1="{y - 9}" y2="{y + 9}"/>'
    )


def _dots(values: Mapping[str, float], axis: Axis, y: float) -> str:
    dots = []
    for k, (patient, value) in enumerate(values.items()):
        shift = round(JITTER * (((k * GOLDEN_RATIO) % 1) - 0.5), 1)
        dots.append(
            f'<circle class="dot" cx="{axis.to_pixel(value)}" cy="{y + shift}" r="2.6">'
            f"<title>{escape(patient)}: {value:.3g}</title></circle>"
        )
    return "".join(dots)


def bland_altman_plot(synthetic: Mapping[str, float], acquired: Mapping[str, float], agreement: BlandAltman) -> Markup:
    """Plot the difference of two measurements against their mean, with bias and limits of agreement.

    Args:
        synthetic: Patient -> volume in ml.
        acquired: Patient -> volume in ml.
        agreement: Bias and limits, in ml.

    Returns:
        An `<svg>` element.
    """
    points = {}
    for patient, value in synthetic.items():
        mean, difference = (value + acquired[patient]) / 2, value - acquired[patient]
        if np.isfinite(mean):
            points[patient] = (mean, difference)

    height = 300.0
    differences = [difference for _, difference in points.values()]
    x = axis_around([0.0, *(mean for mean, _ in points.values())], 70.0, WIDTH - 130)
    y = axis_around([0.0, agreement.limit_low, agreement.limit_high, *differences], height - 48, 24.0)

    body = [_vertical_grid(x, height - 40), _horizontal_grid(y, x)]
    lines = (
        ("zero", 0.0, ""),
        ("bias", agreement.bias, "bias"),
        ("limit", agreement.limit_low, "-1.96 SD"),
        ("limit", agreement.limit_high, "+1.96 SD"),
    )
    for css_class, value, text in lines:
        y_line = y.to_pixel(value)
        body.append(f'<line class="{css_class}" x1="{x.start}" x2="{x.stop}" y1="{y_line}" y2="{y_line}"/>')
        if text:
            body.append(f'<text x="{x.stop + 8}" y="{y_line + 4}">{text} {value:+.1f}</text>')

    for patient, (mean, difference) in points.items():
        body.append(
            f'<circle class="dot" cx="{x.to_pixel(mean)}" cy="{y.to_pixel(difference)}" r="3.2">'
            f"<title>{escape(patient)}: {difference:+.1f} ml</title></circle>"
        )
    body += _axis_titles(x, height, "mean of both, ml", "synthetic minus acquired, ml")
    return _svg(height, "Bland-Altman plot of the enhancing volume", body)


def calibration_plot(mean_curve: Mapping[float, float], patient_curves: Mapping[str, Mapping[float, float]]) -> Markup:
    """Plot the coverage of intervals against their nominal level; the diagonal is perfect.

    Args:
        mean_curve: Nominal level -> mean coverage over patients.
        patient_curves: Patient -> nominal level -> coverage.

    Returns:
        An `<svg>` element.
    """
    height = 330.0
    x, y = Axis(0.0, 1.0, 70.0, 340.0), Axis(0.0, 1.0, height - 48, 24.0)
    body = [_vertical_grid(x, height - 40), _horizontal_grid(y, x)]
    body.append(f'<line class="reference" x1="{x.start}" y1="{y.start}" x2="{x.stop}" y2="{y.stop}"/>')

    for patient, curve in patient_curves.items():
        points = _polyline_points(curve, x, y)
        body.append(f'<polyline class="patient-curve" points="{points}"><title>{escape(patient)}</title></polyline>')
    body.append(f'<polyline class="curve" points="{_polyline_points(mean_curve, x, y)}"/>')

    body += _axis_titles(x, height, "nominal level of the interval", "coverage")
    notes = ("thick: mean over patients", "thin: each patient", "dashed: perfect", "below it: overconfident")
    for k, note in enumerate(notes):
        body.append(f'<text class="soft" x="{x.stop + 24}" y="{40 + 20 * k}">{note}</text>')
    return _svg(height, "Calibration curve", body)


def _polyline_points(curve: Mapping[float, float], x: Axis, y: Axis) -> str:
    points = [(level, covered) for level, covered in sorted(curve.items()) if np.isfinite(covered)]
    return " ".join(f"{x.to_pixel(level)},{y.to_pixel(covered)}" for level, covered in points)


def _axis_titles(x: Axis, height: float, x_title: str, y_title: str) -> list[str]:
    return [
        f'<text class="soft" x="{x.stop}" y="{height - 2}" text-anchor="end">{x_title}</text>',
        f'<text class="soft" x="8" y="10">{y_title}</text>',
    ]


def _vertical_grid(axis: Axis, bottom: float) -> str:
    """Return vertical grid lines with tick labels below."""
    lines = []
    for value in axis.ticks():
        x = axis.to_pixel(value)
        lines.append(f'<line class="grid" x1="{x}" x2="{x}" y1="4" y2="{bottom}"/>')
        lines.append(f'<text class="soft" x="{x}" y="{bottom + 15}" text-anchor="middle">{value:g}</text>')
    return "".join(lines)


def _horizontal_grid(axis: Axis, x_axis: Axis) -> str:
    """Return horizontal grid lines over the width of `x_axis`, with tick labels on the left."""
    lines = []
    for value in axis.ticks():
        y = axis.to_pixel(value)
        lines.append(f'<line class="grid" x1="{x_axis.start}" x2="{x_axis.stop}" y1="{y}" y2="{y}"/>')
        lines.append(f'<text class="soft" x="{x_axis.start - 8}" y="{y + 4}" text-anchor="end">{value:g}</text>')
    return "".join(lines)


def _svg(height: float, label: str, body: Sequence[str]) -> Markup:
    view_box = f"0 0 {WIDTH:.0f} {height:.0f}"
    return Markup(f'<svg viewBox="{view_box}" role="img" aria-label="{escape(label)}">{"".join(body)}</svg>')
