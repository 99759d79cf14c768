import base64
import io

import numpy as np
from matplotlib.image import imread

from dsdiff.reporting import figures


def plot_line():
    figure = figures.new_figure(2.0, 1.0, figures.LIGHT_BACKGROUND, 50)
    figure.subplots().plot([0, 1], [0, 1])
    return figure


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    for name in "ab":
        figures.save_png(plot_line(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert imread(tmp_path / "a", format="png").shape[:2] == (50, 100)
    assert figures.render_svg(plot_line()) == figures.render_svg(plot_line())


def test_an_embedded_image_keeps_its_pixels():
    image = np.zeros((3, 2, 3))
    image[0, 1] = (1, 0.2, 0)
    uri = figures.png_data_uri(figures.encode_png(image))
    head, _, encoded = uri.partition(",")
    assert head == "data:image/png;base64"
    assert np.allclose(imread(io.BytesIO(base64.b64decode(encoded)))[..., :3], image, atol=1 / 255)


def test_the_first_warning_is_written_with_the_number_of_the_others():
    figure = figures.new_figure(4.0, 1.0)
    figures.add_warning(figure, (), 40, 0.1, 0.5)
    assert not figure.texts
    figures.add_warning(figure, ("costs $5 and $6", "thick slices", "cut field of view"), 60, 0.1, 0.5)
    assert figure.texts[0].get_text() == r"Warning: costs \$5 and \$6 (and 2 more)"
