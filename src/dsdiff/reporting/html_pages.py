"""Self-contained HTML pages: the templates of `assets`, all with the style sheet `style.css`."""

from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from dsdiff import __version__
from dsdiff.reporting.score_names import format_score


def render_page(template: str, **context: Any) -> str:
    """Render one template.

    Args:
        template: File name in `assets`, such as `evaluation.html`.
        **context: The variables of the template; a missing one raises `jinja2.UndefinedError`.

    Returns:
        The page as HTML text. It opens offline.
    """
    environment = Environment(
        loader=PackageLoader("dsdiff", "assets"), autoescape=select_autoescape(), undefined=StrictUndefined
    )
    environment.globals |= {"format_score": format_score, "isfinite": np.isfinite, "version": __version__}
    return environment.get_template(template).render(**context)
