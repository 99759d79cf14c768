"""Weights trained with the reference UNet and DiT load strictly, and give what they gave there."""

import json
from pathlib import Path

import pytest
import torch

from dsdiff.backbones import registry
from dsdiff.types import Condition, ConditionLayout

CASES = json.loads((Path(__file__).parent / "reference.json").read_text())["cases"]


def wave(n, frequency, phase=0.0):
    return torch.sin(torch.arange(n, dtype=torch.float64) * frequency + phase).float()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['target'].rsplit('.', 1)[1]}-{len(case['keys'])}")
def test_reference_weights_load_strictly_and_agree(case):
    spec = registry.BackboneTarget(target=case["target"], params=case["params"])
    network = registry.build(spec, ConditionLayout(("t1", "t2", "flair"))).eval()
    weights = {
        name: 0.1 * wave(torch.Size(shape).numel(), 0.37, i).reshape(shape)
        for i, (name, shape) in enumerate(sorted(case["keys"].items()))
    }
    network.load_state_dict(weights, strict=True)
    x = wave(2 * 4 * 16 * 16, 0.11).reshape(2, 4, 16, 16)
    cond = Condition(x[:, 1:, None], torch.ones(2, 3, dtype=torch.bool))
    with torch.no_grad():
        value = network(x[:, :1], torch.tensor([3.0, 777.0]), cond).value
    assert list(value.shape) == case["shape"]
    assert value.std().item() == pytest.approx(case["std"], abs=1e-5)
    assert torch.allclose(value.flatten()[:6], torch.tensor(case["first"]), atol=1e-5)
