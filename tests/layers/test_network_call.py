"""The signature of a network tells how it is called."""

import pytest
import torch
from torch import nn

from dsdiff.errors import ConfigError
from dsdiff.layers.network_call import bind_condition, find_call_form
from dsdiff.types import Condition, Prediction

C = torch.arange(3.0)[None, :, None, None].expand(2, 3, 4, 4)
X_T, T = torch.ones(2, 1, 4, 4), torch.zeros(2)


def call_third(x, t, c):
    return x + c.sum(1, keepdim=True)


def call_optional(x, t, c_concat=None):
    return call_third(x, t, c_concat)


def call_joined(x, t, context=None, *, return_dict=True):
    return x.sum(1, keepdim=True)


def call_condition(x_t, t, cond):
    return Prediction(call_third(x_t, t, cond.maps()))


@pytest.mark.parametrize(
    ("network", "form"),
    [
        (call_third, "channels"),
        (call_optional, "channels"),
        (call_joined, "joined"),
        (call_condition, "condition"),
    ],
)
def test_all_forms_get_the_same_condition(network, form):
    assert find_call_form(network) == form
    sources = Condition(C[:, :, None], torch.ones(2, 3, dtype=torch.bool))
    for condition in (C, sources):
        assert torch.equal(bind_condition(network, condition)(X_T, T), torch.full((2, 1, 4, 4), 4.0))


def test_the_network_inside_a_wrapper_is_called_as_alone():
    class Sum(nn.Module):
        def forward(self, x, t, c):
            return call_third(x, t, c)

    for wrapper in (nn.DataParallel(Sum()), torch.compile(Sum(), backend="eager")):
        assert torch.equal(bind_condition(wrapper, C)(X_T, T), call_third(X_T, T, C))


@pytest.mark.parametrize("network", [lambda x: x, lambda x, t, c, y: x, lambda x, t, *, mask: x, lambda: None])
def test_another_signature_raises_an_error(network):
    with pytest.raises(ConfigError, match=r"has forward\(.*\); dsdiff calls a network as forward\(x, t, c\)"):
        find_call_form(network)


def test_an_error_inside_a_network_is_reported_with_the_shapes():
    def fail(x, t, c):
        return torch.cat([x, c]) @ c

    message = r"fail raises RuntimeError \(.*\) for arguments of the shapes \(2, 1, 4, 4\), \(2,\), \(2, 3, 4, 4\)"
    with pytest.raises(ConfigError, match=message):
        bind_condition(fail, C)(X_T, T)


@pytest.mark.parametrize(
    ("output", "description"),
    [((X_T, X_T), "a tuple"), (None, "a NoneType"), (X_T[0], r"a tensor of \(1, 4, 4\)")],
)
def test_an_output_without_an_image_raises_an_error(output, description):
    with pytest.raises(ConfigError, match=rf"returns {description}; an image \(b, c, h, w\) is needed"):
        bind_condition(lambda x, t, c: output, C)(X_T, T)
