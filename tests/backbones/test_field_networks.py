"""Networks with the constructors of the field are the registered backbones with another call."""

import sys

import pytest
import torch

from dsdiff import backbones
from dsdiff.backbones import DiT, DSUnetModel, UNet_disc_Model, UNetModel, disentangle_features, registry
from dsdiff.errors import ConfigError, GeometryError, InputError
from dsdiff.types import Condition, ConditionLayout
from tests.toy_data import randomize_zeros

UNET = {"model_channels": 64, "channel_mult": [1, 2], "num_res_blocks": 1, "attention_resolutions": [2]}
PARAMS = {
    UNetModel: UNET,
    UNet_disc_Model: UNET,
    DSUnetModel: UNET,
    DiT: {"input_size": 16, "patch_size": 4, "hidden_size": 32, "depth": 2, "num_heads": 4},
}
LAYOUT = ConditionLayout(("t1", "t2", "flair"))


def make_inputs(channels=3):
    generator = torch.Generator().manual_seed(0)
    x, c = torch.randn(2, 1, 16, 16, generator=generator), torch.randn(2, channels, 16, 16, generator=generator)
    return x, torch.tensor([3, 900]), c


def build_randomized(network_class, **params):
    network = network_class(**PARAMS[network_class], **params).eval()
    randomize_zeros(network)
    return network


@pytest.mark.parametrize("network_class", PARAMS)
def test_outputs_equal_those_of_the_registered_backbone(network_class):
    network, (x, t, c) = build_randomized(network_class), make_inputs()
    params = network_class.default_params | PARAMS[network_class]
    backbone = registry.build(registry.BackboneTarget(target=network_class.backbone_name, params=params), LAYOUT).eval()
    backbone.load_state_dict(network.state_dict())
    cond = Condition(c[:, :, None], torch.ones(2, 3, dtype=torch.bool))
    assert torch.equal(network(x, t, c_concat=c), backbone(x, t.float(), cond).value)


@pytest.mark.parametrize("network_class", PARAMS)
def test_all_ways_to_give_the_condition_are_the_same(network_class):
    network, (x, t, c) = build_randomized(network_class), make_inputs()
    output = network(x, t, c)
    assert output.shape == x.shape
    assert output.std() > 0
    assert torch.equal(output, network(torch.cat([x, c], 1), t))
    assert torch.equal(output, network(x, t, c_concat=[c[:, :1], c[:, 1:]]))


@pytest.mark.parametrize("network_class", [UNetModel, DiT])
@pytest.mark.parametrize("in_channels", [1, 2, 6])
def test_in_channels_counts_x_and_the_condition(network_class, in_channels):
    network = build_randomized(network_class, in_channels=in_channels, out_channels=2)
    x, t, c = make_inputs(in_channels - 1)
    assert network(x, t, c).shape == (2, 2, 16, 16)
    with pytest.raises(InputError, match=rf"have 8 channels; {network_class.__name__} has in_channels {in_channels}"):
        network(x, t, torch.cat([c[:, :0], x.expand(2, 7, 16, 16)], 1))


@pytest.mark.parametrize("network_class", [UNet_disc_Model, DSUnetModel])
@pytest.mark.parametrize("in_channels", [1, 4, None])
def test_networks_with_streams_take_one_channel_of_each(network_class, in_channels):
    network, (x, t, c) = build_randomized(network_class, in_channels=in_channels), make_inputs()
    assert network.in_channels == 4
    assert network(x, t, c).shape == x.shape


@pytest.mark.parametrize("network_class", [UNet_disc_Model, DSUnetModel])
def test_disentangled_features_belong_to_the_contrasts_and_do_not_depend_on_noise(network_class):
    network, (x, t, c) = build_randomized(network_class), make_inputs()
    features = disentangle_features(c, network, t)
    assert features.shared.shape == features.specific.shape == (2, 3, 64, 8, 8)
    assert features.present.shape == (2, 3)

    pair = network.predict(x, t, c).features[0]
    assert torch.equal(features.shared, pair.shared[:, -3:])
    assert torch.equal(features.specific, pair.specific[:, -3:])
    changed = disentangle_features(torch.cat([c[:, :2], -c[:, 2:]], 1), network, t)
    assert torch.equal(changed.shared[:, :2], features.shared[:, :2])
    assert not torch.allclose(changed.shared[:, 2], features.shared[:, 2])
    assert not torch.equal(disentangle_features(c, network).shared, features.shared)


def test_only_disentangled_networks_have_features():
    with pytest.raises(ConfigError, match="UNetModel has no shared and specific features; take UNet_disc_Model"):
        disentangle_features(make_inputs()[2], UNetModel(**UNET))


def test_params_without_effect_give_a_warning():
    with pytest.warns(UserWarning, match=r"^context_dim \(768\): no effect there, since use_spatial_transformer"):
        UNetModel(**UNET, context_dim=768, adm_in_channels=None, use_linear_in_transformer=False)
    with pytest.warns(UserWarning, match=r"^use_fp16 \(True\): no effect; compute in half precision by torch"):
        UNetModel(**UNET, use_fp16=True)
    with pytest.warns(UserWarning, match="UNetModel: attention_resolutions 16 have no effect"):
        UNetModel(**UNET | {"attention_resolutions": [16]})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"dims": 3}, r"dims: Input should be 2 \(found 3\)"),
        ({"use_spatial_transformer": True, "context_dim": None}, "use_spatial_transformer"),
        ({"nonsense": 1, "num_classes": 10}, "num_classes.*nonsense: there is no such key"),
    ],
)
def test_params_that_change_the_network_raise_an_error(params, message):
    with pytest.raises(ConfigError, match=message):
        UNetModel(**UNET, **params)


def test_another_size_raises_an_error():
    x, t, c = make_inputs()
    with pytest.raises(GeometryError, match="a slice is 15 x 16; both sides must be multiples of 2"):
        UNetModel(**UNET)(x[:, :, 1:], t, c[:, :, 1:])


def test_a_module_of_backbones_has_no_other_names():
    assert backbones.UNetModel is UNetModel
    with pytest.raises(AttributeError, match=r"'dsdiff\.backbones' has no attribute 'Nonsense'"):
        backbones.Nonsense  # noqa: B018
    assert "dsdiff.backbones.field_networks" in sys.modules
