"""Names, aliases, external classes, and a new backbone from the documentation through training and synthesis."""

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dsdiff.backbones import registry
from dsdiff.conditioning import condition
from dsdiff.conditioning.condition import ConditioningConfig
from dsdiff.config.run import load_config, parse_config
from dsdiff.errors import ConfigError, ModelError
from dsdiff.inference.model import load_model
from dsdiff.inference.pipeline import Pipeline
from dsdiff.io.cases import discover_cases, load_volumes
from dsdiff.training import loop
from dsdiff.types import ConditionLayout
from tests.toy_data import TINY_CONFIG, write_case

CPU = torch.device("cpu")
LAYOUT = ConditionLayout(("t1", "t2", "flair"))
DOCS = Path(__file__).resolve().parents[2] / "docs"

MONAI = {
    "target": "monai.networks.nets.DiffusionModelUNet",
    "multiple": 4,
    "params": {
        "spatial_dims": 2,
        "out_channels": 1,
        "channels": [32, 32, 64],
        "attention_levels": [False, False, True],
        "num_res_blocks": 1,
        "num_head_channels": 32,
    },
}
DIFFUSERS = {
    "target": "diffusers.UNet2DModel",
    "multiple": 2,
    "params": {
        "out_channels": 1,
        "block_out_channels": [32, 64],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 1,
    },
}


class JoinedConv(nn.Conv2d):
    """An external class of the smallest kind: x_t and the condition are the channels of x."""

    def forward(self, x, t):
        return super().forward(x)


JOINED_CONV = f"{__name__}.JoinedConv"


def read_code_block(page, number=0):
    """A Python block of a page of the documentation."""
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)[number]


@pytest.fixture
def temporary_registry(monkeypatch):
    """Backbones that a test adds are removed after it."""
    monkeypatch.setattr(registry, "BACKBONES", dict(registry.BACKBONES))


@pytest.fixture
def new_module(tmp_path, monkeypatch):
    """A module with the backbone of the documentation."""
    (tmp_path / "new_backbone.py").write_text(read_code_block("add-a-backbone.md"))
    monkeypatch.syspath_prepend(tmp_path)
    yield "new_backbone"
    sys.modules.pop("new_backbone", None)


def train_backbone(backbone, folder):
    """Train a tiny run on one case; its model folder, and the folder of cases."""
    cohort = folder / "cohort"
    write_case(cohort, "P01")
    config = parse_config(
        TINY_CONFIG | {"data": TINY_CONFIG["data"] | {"root": str(cohort)}, "backbone": backbone}, "test"
    )
    return loop.train(config, folder / "run", CPU), cohort


def synthesize(model, cohort):
    (case,) = discover_cases(cohort)
    return Pipeline(model).synthesize_volumes(load_volumes(case, model.contrasts)).z


def test_the_backbone_of_the_documentation_trains_and_samples(temporary_registry, new_module, tmp_path):
    registry.register("line", f"{new_module}:Line")
    folder, cohort = train_backbone({"target": "line"}, tmp_path)
    model = load_model(folder, CPU)
    assert sum(p.numel() for p in model.network.parameters() if p.requires_grad) == 11
    assert synthesize(model, cohort).std() > 0


def test_only_a_trusted_config_imports_a_dotted_path(temporary_registry, new_module, tmp_path, monkeypatch):
    backbone = {"target": "new_backbone.Line"}
    with pytest.raises(ConfigError, match=r"'new_backbone\.Line' is unknown.*--allow-code"):
        parse_config(TINY_CONFIG | {"backbone": backbone}, "test").build_backbone()
    assert new_module not in sys.modules

    registry.trust_class("new_backbone.Line")
    folder, cohort = train_backbone(backbone, tmp_path)

    monkeypatch.delitem(registry.BACKBONES, "new_backbone.Line")
    sys.modules.pop(new_module)
    with pytest.raises(ModelError, match=r"new_backbone\.Line.*--allow-code"):
        load_model(folder, CPU)
    assert new_module not in sys.modules

    registry.trust_class("new_backbone.Line")
    assert synthesize(load_model(folder, CPU), cohort).std() > 0


def test_an_external_class_cannot_predict_its_error(temporary_registry):
    registry.trust_class(JOINED_CONV)
    values = TINY_CONFIG | {
        "process": {"target": "bridge", "params": {"predict_error": True}},
        "backbone": {
            "target": JOINED_CONV,
            "multiple": 1,
            "params": {"out_channels": 2, "kernel_size": 3, "padding": 1},
        },
    }
    with pytest.raises(ConfigError, match=r"external backbone '.*JoinedConv' returns one"):
        parse_config(values, "test").build_backbone()


@pytest.mark.filterwarnings("default")  # these libraries warn when they are imported
@pytest.mark.parametrize("backbone", [MONAI, DIFFUSERS], ids=["monai", "diffusers"])
def test_networks_of_other_libraries_train_and_sample(temporary_registry, backbone, tmp_path):
    registry.trust_class(backbone["target"])
    folder, cohort = train_backbone(backbone, tmp_path)
    model = load_model(folder, CPU)
    assert model.multiple == backbone["multiple"]
    assert synthesize(model, cohort).std() > 0


def test_every_alias_is_a_registered_name():
    assert set(registry.ALIASES.values()) <= set(registry.BACKBONES)
    assert registry.registered_name("UNet_DS_Diff.model.DSUnetModel") == "ds_unet"
    assert set(registry.summaries()) == set(registry.BACKBONES)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"target": "dit", "params": {"hidden_size": 100, "num_heads": 16}}, "100 is not divisible by num_heads 16"),
        ({"target": "dit", "params": {"stem": 2, "channel_mult": [1]}}, "stem.*channel_mult.*backbone=NAME"),
        ({"target": "vit", "params": {"image_size": 250}}, "image_size 250 is not a multiple of patch_size 16"),
        ({"target": "hybrid", "params": {"image_size": 100}}, "image_size 100 is not a multiple"),
        ({"target": "hybrid", "params": {"hidden_size": 100}}, "not divisible by transformer_heads 8"),
        ({"target": "resnet_attention", "params": {"channel_mult": [1, 2]}}, "a trunk has one level"),
        ({"target": "resnet_attention", "params": {"attention_resolutions": [8]}}, "set attention_every"),
        ({"target": "ds_unet", "params": {"lesion": ["swi"]}}, r"lesion is \['swi'\], and data.contrasts"),
        ({"target": "smp_unet", "params": {"encoder_weights": "imagenet"}}, "encoder_weights"),
        ({"target": "unet", "multiple": 8}, "'unet' declares its own"),
        ({"target": "resnet_attention", "params": {"resblock_updown": True}}, "a trunk has one level"),
        ({"target": "dit", "params": {"class_label": 3}}, "num_classes is not"),
        ({"target": "dit", "params": {"num_classes": 3, "class_dropout_prob": 0}}, "class_label is needed"),
        ({"target": "dit", "params": {"num_classes": 3, "class_label": 4}}, "class_label 4 is not among 4 labels"),
    ],
)
def test_invalid_params_raise_an_error(spec, message):
    with pytest.raises(ConfigError, match=message):
        registry.build(registry.BackboneTarget(**spec), LAYOUT)


@pytest.mark.parametrize(
    ("target", "params", "message"),
    [
        ("unet", {"attention_resolutions": [32, 16, 8]}, "attention_resolutions 32, 16 have no effect.*1, 2, 4, 8"),
        ("unet", {"model_channels": 32}, "with 32 channels every group of the group norm is one channel"),
        ("resnet_attention", {"num_res_blocks": 2}, "attention_every 4 has no effect: there are 2 residual blocks"),
        ("vit", {"long_skips": True, "depth": 2}, "long_skips has no effect"),
    ],
)
def test_params_that_are_probably_a_mistake_give_a_warning(target, params, message):
    (warning,) = registry.params_warnings(registry.BackboneTarget(target=target, params=params))
    assert re.search(message, warning)
    assert not registry.params_warnings(registry.BackboneTarget(target=target))


def test_invalid_names_and_paths_raise_an_error(temporary_registry):
    with pytest.raises(ConfigError, match="'unet' is already registered"):
        registry.register("unet", "some.module:Class")
    with pytest.raises(ConfigError, match="does not name a class"):
        registry.trust_class("os")
    registry.trust_class("dsdiff.nowhere.Net")
    with pytest.raises(ConfigError, match="cannot be imported"):
        registry.lookup("dsdiff.nowhere.Net")


def test_an_external_class_with_invalid_params_raises_an_error(temporary_registry):
    registry.trust_class(JOINED_CONV)
    with pytest.raises(ConfigError, match="JoinedConv does not accept them"):
        registry.build(registry.BackboneTarget(target=JOINED_CONV, params={"nonsense": 1}), LAYOUT)
    params = {"out_channels": 1, "kernel_size": 1}
    with pytest.raises(ConfigError, match=r"set backbone\.multiple"):
        registry.build(registry.BackboneTarget(target=JOINED_CONV, params=params), LAYOUT)


def test_an_output_of_another_shape_raises_an_error(temporary_registry):
    registry.trust_class(JOINED_CONV)
    params = {"out_channels": 3, "kernel_size": 1}
    network = registry.build(registry.BackboneTarget(target=JOINED_CONV, multiple=1, params=params), LAYOUT)
    cond = condition.build_condition(
        ConditioningConfig(edges="none"), torch.zeros(1, 3, 1, 4, 4), torch.ones(1, 3, dtype=torch.bool)
    )
    with pytest.raises(ConfigError, match=r"returns \(1, 3, 4, 4\) for an x_t of \(1, 1, 4, 4\)"):
        network(torch.zeros(1, 1, 4, 4), torch.ones(1), cond)


def test_an_override_replaces_the_whole_backbone_block(tmp_path):
    config = load_config("bridge-small", ("backbone=dit-small", "backbone.params.depth=2"))
    assert config.backbone.target == "dit"
    assert config.backbone.params["depth"] == 2
    assert "model_channels" not in config.backbone.params
    assert config.training == load_config("bridge-small").training

    (tmp_path / "none.yaml").write_text("seed: 3\n")
    with pytest.raises(ConfigError, match="must have one backbone block, it has 0"):
        load_config("bridge-small", (f"backbone={tmp_path / 'none.yaml'}",))
    with pytest.raises(ConfigError, match=r"no such config file; .*dit-table"):
        load_config("bridge-small", ("backbone=dit-tiny",))


def test_absent_sources_are_zero_whatever_their_values():
    sources = torch.full((1, 3, 1, 4, 4), torch.nan)
    sources[:, 1] = 2.0
    cond = condition.build_condition(ConditioningConfig(edges="sobel"), sources, torch.tensor([[False, True, False]]))
    assert cond.maps().isfinite().all()
    assert torch.equal(cond.stream(1), cond.maps()[:, [1, 4]])
    assert not cond.stream(0).any()
