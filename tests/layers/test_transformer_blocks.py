import math

import pytest
import torch

from dsdiff.layers.basic import attention
from dsdiff.layers.transformer_blocks import positions, sincos_positions, unpatchify


def test_positions_of_the_stored_size_are_the_stored_ones():
    table = torch.randn(1, 12, 8)
    assert torch.equal(positions(table, (3, 4), (3, 4)), table)


def test_interpolated_positions_keep_a_ramp_and_a_constant():
    rows = torch.arange(8.0)[:, None].expand(8, 8)
    table = torch.stack([rows, torch.ones(8, 8)], -1).reshape(1, 64, 2)
    found = positions(table, (8, 8), (16, 4)).reshape(16, 4, 2)
    assert torch.allclose(found[..., 1], torch.ones(16, 4), atol=1e-5)
    expected = (torch.arange(16.0) + 0.5) / 2 - 0.5
    assert torch.allclose(found[4:12, 1, 0], expected[4:12], atol=0.06)  # bicubic, not exactly linear


def test_sincos_positions_by_hand():
    found = sincos_positions((2, 3), 8)[0].reshape(2, 3, 8)
    assert torch.allclose(found[0, 0], torch.tensor([0.0, 0, 1, 1, 0, 0, 1, 1]))
    column, row = (
        [math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02)],
        [math.sin(1), math.sin(0.01), math.cos(1), math.cos(0.01)],
    )
    assert torch.allclose(found[1, 2], torch.tensor(column + row), atol=1e-6)


def test_unpatchify_puts_every_pixel_where_it_was():
    image = torch.arange(2 * 8 * 12.0).reshape(1, 2, 8, 12)
    patches = image.unfold(2, 4, 4).unfold(3, 4, 4)  # b c rows columns p q
    tokens = patches.permute(0, 2, 3, 4, 5, 1).reshape(1, 6, 32)
    assert torch.equal(unpatchify(tokens, 8, 4), image)


@pytest.mark.parametrize("fused", [True, False])
def test_attention_of_equal_keys_is_the_mean(fused):
    v = torch.randn(1, 2, 5, 4)
    out = attention(torch.randn(1, 2, 3, 4), torch.ones(1, 2, 5, 4), v, fused)
    assert torch.allclose(out, v.mean(2, keepdim=True).expand_as(out), atol=1e-6)
