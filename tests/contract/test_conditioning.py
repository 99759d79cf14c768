"""Every conditioning with every backbone: it trains a step, is heeded, and synthesises."""

import numpy as np
import pytest
import torch

from dsdiff.config import run as configs
from dsdiff.data import dataset
from dsdiff.errors import ConfigError
from dsdiff.inference.model import Model
from dsdiff.inference.pipeline import run
from dsdiff.io import cases
from dsdiff.training import loop
from dsdiff.volume import Volume
from tests.contract.test_backbones import NAMES, SMALL
from tests.toy_data import LPS, patient, wake, write_case

CPU = torch.device("cpu")
OPTIONS = {
    "shared encoder": {"edges": "none", "encoder": "shared"},
    "disentangled": {"encoder": "shared", "disentangle": [{"target": "common_distinct"}, {"target": "swap"}]},
    "own encoders, at every scale": {"encoder": "per_contrast", "fusion": "spade"},
    "edges at every scale": {"edges": "canny", "fusion": "spade"},
    "learned edges, style, dropout": {"edges": "learned", "style": "linear"},
    "style of curves": {"style": "curves"},
}  # fmt: skip


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    (case,) = cases.discover(write_case(tmp_path_factory.mktemp("cohort"), "P0"))
    return [dataset.load(case, ("t1", "t2", "flair"), "t1ce")]


@pytest.fixture(scope="module")
def volumes():
    return {name: Volume(array[..., 11:13], LPS) for name, array in patient().items() if name in ("t1", "t2", "flair")}


def config(name, conditioning, **data):
    return configs.parse(
        {
            "data": {"context_slices": 3, "crop": [32, 32], **data},
            "conditioning": {"encoder_params": {"scales": 2}, **conditioning},
            "backbone": {"target": name, "params": SMALL[name]},
            "training": {"batch_size": 2, "precision": "fp32"},
        },
        "test",
    )


def trained(made, patients):
    trainer = loop.Trainer(made, CPU)
    wake(trainer.network)
    batch = loop.draws(made, dataset.Cohort(patients)).at(0)
    return trainer, trainer.train_step(batch, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_every_conditioning_goes_with_every_backbone(name, option, patients, volumes):
    made = config(name, OPTIONS[option], contrast_dropout=0.4 if "dropout" in option else 0)
    if made.conditioning.style != "none":
        patients, _ = dataset.with_styles(patients, made.conditioning.style)
    before = {k: v.clone() for k, v in loop.Trainer(made, CPU).network.state_dict().items()}
    trainer, loss = trained(made, patients)
    assert np.isfinite(loss)
    after = trainer.network.state_dict()
    still = [
        n
        for n, _ in trainer.network.conditioner.named_parameters()
        if torch.equal(before[f"conditioner.{n}"], after[f"conditioner.{n}"])
    ]
    assert not still
    model = Model("tiny", "0", made, trainer.network.eval(), trainer.process, made.build_sampler(), CPU)
    assert np.isfinite(run(volumes, model).z).all()


def test_what_is_injected_is_off_where_it_is_off():
    plain = config("unet", {"edges": "sobel"}).build_network()
    assert not [name for name in plain.state_dict() if name.startswith("conditioner") or "inject" in name]


def test_someone_elses_class_has_no_scales_of_ours():
    from dsdiff.backbones import registry

    registry.register("theirs", "torch.nn:Conv2d")
    try:
        spec = registry.BackboneTarget(target="theirs", params={"out_channels": 1, "kernel_size": 1}, multiple=1)
        with pytest.raises(ConfigError, match=r"inject is 'scales', and 'theirs' is someone else's"):
            registry.build(spec, configs.ConditioningConfig(edges="sobel", fusion="spade").layout(("t1",), 1))
    finally:
        del registry.BACKBONES["theirs"]
