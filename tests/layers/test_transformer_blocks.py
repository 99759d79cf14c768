import math

import pytest
import torch

from dsdiff.layers.primitives import attention
from dsdiff.layers.transformer_blocks import interpolate_positions, sincos_positions, unpatchify


def test_positions_of_the_stored_grid_do_not_change():
    table = torch.randn(1, 12, 8)
    assert torch.equal(interpolate_positions(table, (3, 4), (3, 4)), table)


def test_interpolated_positions_preserve_a_ramp_and_a_constant():
    rows = torch.arange(8.0)[:, None].expand(8, 8)
    table = torch.stack([rows, torch.ones(8, 8)], -1).reshape(1, 64, 2)
    positions = interpolate_positions(table, (8, 8), (16, 4)).reshape(16, 4, 2)
    assert torch.allclose(positions[..., 1], torch.ones(16, 4), atol=1e-5)
    ramp = (torch.arange(16.0) + 0.5) / 2 - 0.5
    assert torch.allclose(positions[4:12, 1, 0], ramp[4:12], atol=0.06)  # bicubic, not exactly linear


def test_sincos_positions_match_hand_computed_values():
    positions = sincos_positions((2, 3), 8)[0].reshape(2, 3, 8)
    assert torch.allclose(positions[0, 0], torch.tensor([0.0, 0, 1, 1, 0, 0, 1, 1]))
    column = [math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02)]
    row = [math.sin(1), math.sin(0.01), math.cos(1), math.cos(0.01)]
    assert torch.allclose(positions[1, 2], torch.tensor(column + row), atol=1e-6)


def test_unpatchify_inverts_cutting_into_patches():
    image = torch.arange(2 * 8 * 12.0).reshape(1, 2, 8, 12)
    patches = image.unfold(2, 4, 4).unfold(3, 4, 4)  # b c rows columns p q
    tokens = patches.permute(0, 2, 3, 4, 5, 1).reshape(1, 6, 32)
    assert torch.equal(unpatchify(tokens, 8, 4), image)


@pytest.mark.parametrize("fused", [True, False])
def test_attention_with_equal_keys_is_the_mean_of_the_values(fused):
    v = torch.randn(1, 2, 5, 4)
    out = attention(torch.randn(1, 2, 3, 4), torch.ones(1, 2, 5, 4), v, fused)
    assert torch.allclose(out, v.mean(2, keepdim=True).expand_as(out), atol=1e-6)
