import pytest
import torch

from dsdiff.backbones import ds_unet, registry
from dsdiff.conditioning import disentangle, original_losses
from dsdiff.conditioning.disentangle import DisentangleConfig
from dsdiff.errors import ConfigError
from dsdiff.types import Condition, ConditionLayout, FeaturePair, Prediction, StreamFeatures
from tests.toy_data import randomize_zeros

# Two slices, two contrasts, one value per image.
CONTENT = torch.tensor([[0.0, 1.0], [4.0, 4.0]])[:, :, None, None, None]
STYLE = torch.tensor([[10.0, 20.0], [12.0, 20.0]])[:, :, None, None, None]
ANATOMY = torch.tensor([[30.0, 31.0], [40.0, 40.0]])[:, :, None, None, None]
LESION = torch.tensor([[50.0, 52.0], [60.0, 60.0]])[:, :, None, None, None]
ALL_PRESENT = torch.ones(2, 2, dtype=torch.bool)
SMALL = {"model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1}


def make_pair(present=ALL_PRESENT, content=CONTENT):
    anatomy, lesion = StreamFeatures(ANATOMY, present), StreamFeatures(LESION, present)
    return FeaturePair(content, STYLE, present, anatomy, lesion)


def sum_distances(classes):
    """Sums over ordered pairs of values: within classes, and between classes."""
    within, between = 0.0, 0.0
    for name, values in classes.items():
        for other_name, other_values in classes.items():
            total = sum(abs(a - b) for a in values for b in other_values)
            if name == other_name:
                within += total
            else:
                between += total
    return within, between


def test_content_style_is_the_ratio_of_sums_of_distances():
    classes = {"content 0": [0, 1], "content 1": [4, 4], "style t1": [10, 12], "style t2": [20, 20]}
    within, between = sum_distances(classes)
    assert original_losses.content_style_loss(make_pair()).item() == pytest.approx(within / between)


def test_anatomy_lesion_is_the_ratio_of_sums_of_distances():
    classes = {"style t1": [10, 12], "style t2": [20, 20], "anatomy 0": [30, 31], "anatomy 1": [40, 40]}
    within, between = sum_distances(classes | {"lesion 0": [50, 52], "lesion 1": [60, 60]})
    assert original_losses.anatomy_lesion_loss(make_pair()).item() == pytest.approx(within / between)


def test_common_over_distinct_is_the_mean_ratio_of_slices():
    expected = (1 / 100 + 0 / 64) / 2
    assert original_losses.common_over_distinct_loss(make_pair()).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["content_style", "anatomy_lesion", "common_over_distinct"])
def test_an_absent_contrast_does_not_change_the_loss(name):
    loss = getattr(original_losses, f"{name}_loss")
    present = torch.tensor([[True, False], [True, True]])
    changed_content = CONTENT.clone()
    changed_content[0, 1] = 77.0
    value = loss(make_pair(present))
    assert torch.equal(value, loss(make_pair(present, changed_content)))
    assert value.isfinite()


@pytest.mark.parametrize("structure", [{}, ds_unet.ORIGINAL_STRUCTURE])
def test_the_term_trains_the_anatomy_and_lesion_heads(structure):
    torch.manual_seed(0)
    spec = registry.BackboneTarget(target="ds_unet", params=SMALL | structure)
    network = registry.build(spec, ConditionLayout(("t1", "t2", "flair")))
    randomize_zeros(network)
    cond = Condition(torch.randn(2, 3, 1, 8, 8), torch.ones(2, 3, dtype=torch.bool))
    prediction = network(torch.randn(2, 1, 8, 8), torch.tensor([10.0, 500.0]), cond)

    gradients = {}
    for target in ("content_style", "anatomy_lesion"):
        terms = (DisentangleConfig(target=target, weight=0.5),)
        loss = disentangle.weighted_disentangle_loss(terms, cond, prediction, None)
        network.zero_grad()
        loss.backward(retain_graph=True)
        gradients[target] = {name: parameter.grad for name, parameter in network.heads.named_parameters()}

    for name in gradients["anatomy_lesion"]:
        head = name.split(".")[0]
        if head in ("anatomy", "lesion"):
            assert gradients["anatomy_lesion"][name].any(), name
            assert gradients["content_style"][name] is None, name
        if head in ("style", "content"):
            assert gradients["content_style"][name].any(), name


def test_the_term_without_heads_raises_an_error():
    prediction = Prediction(torch.zeros(2, 1, 1, 1), (FeaturePair(CONTENT, STYLE, ALL_PRESENT),))
    terms = (DisentangleConfig(target="anatomy_lesion"),)
    cond = Condition(torch.zeros(2, 2, 1, 1, 1), ALL_PRESENT)
    with pytest.raises(ConfigError, match="'anatomy_lesion' needs features of an anatomy head and of a lesion head"):
        disentangle.weighted_disentangle_loss(terms, cond, prediction, None)
