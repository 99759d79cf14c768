"""Weights of the reference networks load strictly, and give the output and the losses of the reference."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dsdiff.backbones import disc_unet, ds_unet, registry
from dsdiff.conditioning import original_losses
from dsdiff.errors import ModelError
from dsdiff.originals.state_dicts import convert_state_dict, identify_backbone, restore_state_dict
from dsdiff.types import Condition, ConditionLayout

CASES = json.loads((Path(__file__).parent / "reference.json").read_text())["cases"]
STRUCTURES = {"disc_unet": disc_unet.ORIGINAL_STRUCTURE, "ds_unet": ds_unet.ORIGINAL_STRUCTURE}
SIX_LEVELS = {"channel_mult": [1, 1, 2, 2, 3, 3], "num_res_blocks": 2, "attention_resolutions": [32, 16, 8]}
# Millions of parameters of the published networks -> backbone and params.
PUBLISHED_SIZES = {
    272.1: ("disc_unet", {"model_channels": 160, "channel_mult": [1, 2, 4, 4], "num_head_channels": 32}),
    85.3: ("disc_unet", {"model_channels": 96, "num_head_channels": 48} | SIX_LEVELS),
    981.5: ("ds_unet", {"model_channels": 320, "num_head_channels": 32} | SIX_LEVELS),
    93.6: ("ds_unet", {"model_channels": 96, "num_head_channels": 48, "use_scale_shift_norm": True} | SIX_LEVELS),
    223.5: ("ds_unet", {"model_channels": 128, "channel_mult": [1, 1, 2, 2, 4, 4], "num_head_channels": 32}),
    55.2: ("ds_unet", {"model_channels": 64, "channel_mult": [1, 1, 2, 2, 4, 4], "num_head_channels": 32}),
}
# Downsampling factors with attention of the published networks that do not have six levels.
ATTENTION = {272.1: [16], 223.5: [8, 16], 55.2: [16]}
SMALL = {"model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1, "attention_resolutions": [2]}
CONTRASTS = ("t1", "t2", "flair")


def build(target, params, contrasts=CONTRASTS):
    structure = STRUCTURES.get(registry.registered_name(target), {})
    spec = registry.BackboneTarget(target=target, params=params | structure)
    return registry.build(spec, ConditionLayout(tuple(contrasts))).eval()


def random_tensor(seed, shape):
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape)).float()


def random_weights(shapes):
    weights = {}
    for seed, (name, shape) in enumerate(sorted(shapes.items())):
        value = random_tensor(seed, shape)
        if len(shape) > 1:
            weights[name] = value / np.prod(shape[1:]) ** 0.5
        elif name.endswith("weight"):
            weights[name] = 1 + 0.2 * value
        else:
            weights[name] = 0.2 * value
    return weights


def original_shapes(network, case):
    shapes = {name: tuple(tensor.shape) for name, tensor in restore_state_dict(network.state_dict(), network).items()}
    if case["name"] == "dit-unlabelled":  # the reference has the table, and does not use it
        shapes["y_embedder.embedding_table.weight"] = (11, case["params"]["hidden_size"])
    return shapes


def digest_names(shapes):
    listing = "".join(f"{name} {list(shape)}\n" for name, shape in sorted(shapes.items()))
    return hashlib.sha256(listing.encode()).hexdigest()[:16]


def predict(network, case):
    x = random_tensor(1000, case["input"])
    cond = Condition(x[:, 1:, None], torch.ones(len(x), x.shape[1] - 1, dtype=torch.bool))
    with torch.no_grad():
        return network(x[:, :1], torch.tensor([3.0, 777.0]), cond)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_reference_weights_give_the_output_of_the_reference(case):
    network = build(case["target"], case["params"], case["contrasts"])
    shapes = original_shapes(network, case)
    assert len(shapes) == case["n_weights"]
    assert digest_names(shapes) == case["names"]
    assert identify_backbone(shapes) == registry.registered_name(case["target"])

    network.load_state_dict(convert_state_dict(random_weights(shapes), network), strict=True)
    prediction = predict(network, case)

    assert list(prediction.value.shape) == case["output"]
    assert prediction.value.std().item() == pytest.approx(case["std"], abs=1e-5)
    values = prediction.value.flatten()
    assert torch.allclose(values[:: len(values) // 16][:16], torch.tensor(case["values"]), rtol=0, atol=1e-5)
    for name, loss in case.get("losses", {}).items():
        computed = getattr(original_losses, f"{name}_loss")(prediction.features[0])
        assert computed.item() == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("size", PUBLISHED_SIZES)
def test_published_networks_have_their_number_of_parameters(size):
    target, params = PUBLISHED_SIZES[size]
    with torch.device("meta"):
        network = build(target, {"attention_resolutions": ATTENTION.get(size, ())} | params)
    assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(size, abs=0.05)


@pytest.mark.parametrize("target", ["unet", "disc_unet", "ds_unet", "dit"])
def test_restored_weights_convert_to_the_same_weights(target):
    params = {"image_size": 16, "patch_size": 4, "hidden_size": 32, "depth": 1, "num_heads": 4}
    network = build(target, params if target == "dit" else SMALL)
    state = network.state_dict()
    converted = convert_state_dict(restore_state_dict(state, network), network)
    assert set(converted) == set(state)
    assert all(torch.equal(converted[name], tensor) for name, tensor in state.items())


def test_weights_of_another_network_raise_an_error():
    network, disc_network = build("unet", SMALL), build("disc_unet", SMALL)
    state = restore_state_dict(disc_network.state_dict(), disc_network)
    message = r"0 missing, \d+ unexpected \(SE_Attention_com.*, \.\.\.\); they look like .*backbone 'disc_unet'"
    with pytest.raises(ModelError, match=message):
        convert_state_dict({name: state[name] for name in sorted(state)}, network)
    assert identify_backbone(["conv_1.weight"]) is None


def test_weights_of_another_width_raise_an_error():
    network, wide_network = build("unet", SMALL), build("unet", SMALL | {"model_channels": 64})
    with pytest.raises(ModelError, match=r"time_embed\.0\.weight is \(256, 64\), the network needs \(128, 32\)"):
        convert_state_dict(wide_network.state_dict(), network)


def test_a_network_of_another_structure_raises_an_error():
    original = build("ds_unet", SMALL)
    spec = registry.BackboneTarget(target="ds_unet", params=SMALL)
    network = registry.build(spec, ConditionLayout(CONTRASTS))
    with pytest.raises(ModelError, match=r"missing \(.*\), \d+ unexpected \(.*use a config with the parameters"):
        convert_state_dict(restore_state_dict(original.state_dict(), original), network)
