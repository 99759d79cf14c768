"""The contract of every conditioning with every backbone: it trains a step, changes its weights, and synthesizes."""

import numpy as np
import pytest
import torch

from dsdiff.backbones import registry
from dsdiff.conditioning.condition import ConditioningConfig
from dsdiff.config.run import parse_config
from dsdiff.data import assemble_cohort, preparation, target_style
from dsdiff.errors import ConfigError
from dsdiff.inference.model import Model
from dsdiff.inference.pipeline import Pipeline
from dsdiff.io.cases import discover_cases
from dsdiff.training import loop
from dsdiff.volume import Volume
from tests.contract.test_backbones import NAMES, SMALL
from tests.toy_data import LPS_AFFINE, make_patient, randomize_zeros, write_case

CPU = torch.device("cpu")
CONTRASTS = ("t1", "t2", "flair")
CONDITIONINGS = {
    "shared encoder": {"edges": "none", "encoder": "shared"},
    "disentangled": {"encoder": "shared", "disentangle": [{"target": "common_distinct"}, {"target": "swap"}]},
    "encoder per contrast, spade": {"encoder": "per_contrast", "fusion": "spade"},
    "edges, spade": {"edges": "canny", "fusion": "spade"},
    "learned edges, linear style, dropout": {"edges": "learned", "style": "linear"},
    "style of curves": {"style": "curves"},
}


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    (case,) = discover_cases(write_case(tmp_path_factory.mktemp("cohort"), "P0"))
    return [preparation.load_patient(case, CONTRASTS, "t1ce")]


@pytest.fixture(scope="module")
def volumes():
    images = make_patient()
    return {name: Volume(images[name][..., 11:13], LPS_AFFINE) for name in CONTRASTS}


def make_config(backbone, conditioning, **data):
    values = {
        "data": {"context_slices": 3, "crop": [32, 32], **data},
        "conditioning": {"encoder_params": {"scales": 2}, **conditioning},
        "backbone": {"target": backbone, "params": SMALL[backbone]},
        "training": {"batch_size": 2, "precision": "fp32"},
    }
    return parse_config(values, "test")


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("backbone", NAMES)
def test_every_conditioning_works_with_every_backbone(backbone, conditioning, patients, volumes):
    contrast_dropout = 0.4 if "dropout" in conditioning else 0
    config = make_config(backbone, CONDITIONINGS[conditioning], contrast_dropout=contrast_dropout)
    if config.conditioning.style != "none":
        patients, _ = target_style.attach_style_codes(patients, config.conditioning.style)

    trainer = loop.Trainer(config, CPU)
    conditioner = trainer.network.conditioner
    weights_before = {name: parameter.clone() for name, parameter in conditioner.named_parameters()}
    randomize_zeros(trainer.network)
    batch = loop.training_batches(config, assemble_cohort.TrainingData(patients)).load_step(0)
    loss = trainer.train_step(batch, torch.Generator().manual_seed(0))
    assert np.isfinite(loss)
    for name, parameter in conditioner.named_parameters():
        assert not torch.equal(weights_before[name], parameter), name

    model = Model("tiny", "0", config, trainer.network.eval(), trainer.process, config.build_sampler(), CPU)
    assert np.isfinite(Pipeline(model).synthesize_volumes(volumes).z).all()


def test_concatenation_needs_no_weights():
    network = make_config("unet", {"edges": "sobel"}).build_network()
    assert not [name for name in network.state_dict() if name.startswith(("conditioner", "backbone.fusion"))]


def test_an_external_class_cannot_use_spade(monkeypatch):
    monkeypatch.setattr(registry, "BACKBONES", dict(registry.BACKBONES))
    registry.register("external", "torch.nn:Conv2d")
    spec = registry.BackboneTarget(target="external", params={"out_channels": 1, "kernel_size": 1}, multiple=1)
    layout = ConditioningConfig(edges="sobel", fusion="spade").layout(("t1",), 1)
    with pytest.raises(ConfigError, match="fusion is 'spade', but 'external' is an external class"):
        registry.build(spec, layout)
