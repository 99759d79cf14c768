"""Names, aliases, someone else's classes, and the way of a newcomer's backbone through training and synthesis."""

import re
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from dsdiff.backbones import registry
from dsdiff.conditioning import condition
from dsdiff.conditioning.condition import ConditioningConfig
from dsdiff.config import run as configs
from dsdiff.errors import ConfigError, ModelError
from dsdiff.inference import model as models
from dsdiff.inference.pipeline import run
from dsdiff.training import loop
from dsdiff.types import ConditionLayout
from tests.toy_data import TINY, wake, write_case

LAYOUT = ConditionLayout(("t1", "t2", "flair"))
DOCS = Path(__file__).resolve().parents[2] / "docs"


def block(page, number=0):
    """A Python block of a page of the documentation."""
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)[number]


@pytest.fixture
def names(monkeypatch):
    """The registry as it is now, whatever a test adds."""
    monkeypatch.setattr(registry, "BACKBONES", dict(registry.BACKBONES))


@pytest.fixture
def newcomer(tmp_path, monkeypatch):
    (tmp_path / "newcomer.py").write_text(block("add-a-backbone.md"))
    monkeypatch.syspath_prepend(tmp_path)
    yield "newcomer"
    sys.modules.pop("newcomer", None)


def trained(block, folder):
    write_case(folder / "cohort", "P01")
    config = configs.parse(TINY | {"data": TINY["data"] | {"root": str(folder / "cohort")}, "backbone": block}, "test")
    return loop.train(config, folder / "run", torch.device("cpu"), Console(quiet=True)), folder / "cohort"


def synthesised(model, cohort):
    from dsdiff.io import cases

    (case,) = cases.discover(cohort)
    return run(cases.load(case, model.contrasts), model).z


def test_a_five_line_backbone_trains_and_samples(names, newcomer, tmp_path):
    registry.register("line", f"{newcomer}:Line")
    folder, cohort = trained({"target": "line"}, tmp_path)
    model = models.load(folder, torch.device("cpu"))
    assert sum(p.numel() for p in model.network.parameters() if p.requires_grad) == 11
    assert synthesised(model, cohort).std() > 0


def test_a_dotted_path_needs_permission_and_a_checkpoint_never_has_it(names, newcomer, tmp_path, monkeypatch):
    block = {"target": "newcomer.Line"}
    with pytest.raises(ConfigError, match=r"'newcomer\.Line' is unknown.*--allow-code"):
        configs.parse(TINY | {"backbone": block}, "test").build_backbone()
    assert newcomer not in sys.modules
    registry.allow("newcomer.Line")
    folder, cohort = trained(block, tmp_path)
    monkeypatch.delitem(registry.BACKBONES, "newcomer.Line")
    sys.modules.pop(newcomer)
    with pytest.raises(ModelError, match=r"newcomer\.Line.*--allow-code"):
        models.load(folder, torch.device("cpu"))
    assert newcomer not in sys.modules
    registry.allow("newcomer.Line")
    assert synthesised(models.load(folder, torch.device("cpu")), cohort).std() > 0


def test_a_class_of_others_tells_no_error(names):
    registry.allow("torch.nn.Conv2d")
    params = {"out_channels": 2, "kernel_size": 3, "padding": 1}
    told = {"process": {"target": "bridge", "params": {"predict_error": True}}}
    config = configs.parse(
        TINY | told | {"backbone": {"target": "torch.nn.Conv2d", "multiple": 1, "params": params}}, "test"
    )
    with pytest.raises(ConfigError, match=r"somebody else's backbone 'torch\.nn\.Conv2d' gives one"):
        config.build_backbone()


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


def test_the_page_on_weights_does_what_it_says(tmp_path, monkeypatch):
    block_of = {
        "target": "unet",
        "params": {"model_channels": 32, "channel_mult": [1, 2], "use_scale_shift_norm": True},
    }
    values = TINY | {
        "data": TINY["data"] | {"context_slices": 1},
        "conditioning": {"edges": "none"},
        "backbone": block_of,
    }
    (tmp_path / "mine.yaml").write_text(configs.dump(configs.parse(values, "test")))
    network = configs.parse(values, "test").build_backbone()
    wake(network)
    old = {f"model.diffusion_model.{name}": w for name, w in network.state_dict().items()}
    torch.save({"state_dict": old | {"betas": torch.ones(3)}}, tmp_path / "old.ckpt")
    monkeypatch.chdir(tmp_path)
    exec(block("weights.md"), {})  # noqa: S102 (our own page)
    loaded = models.load(tmp_path / "mine", torch.device("cpu")).network.backbone
    for name, w in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], w)


@pytest.mark.filterwarnings("default")  # what those libraries warn of on import is theirs
@pytest.mark.parametrize("block", [MONAI, DIFFUSERS], ids=["monai", "diffusers"])
def test_networks_of_other_libraries_train_and_sample(names, block, tmp_path):
    registry.allow(block["target"])
    folder, cohort = trained(block, tmp_path)
    model = models.load(folder, torch.device("cpu"))
    assert model.multiple == block["multiple"]
    assert synthesised(model, cohort).std() > 0


def test_every_alias_is_a_registered_name():
    assert set(registry.ALIASES.values()) <= set(registry.BACKBONES)
    assert registry.name_of("UNet_DS_Diff.model.DSUnetModel") == "ds_unet"
    assert set(registry.summaries()) == set(registry.BACKBONES)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"target": "dit", "params": {"hidden_size": 100, "num_heads": 16}}, "100 is not divisible by num_heads 16"),
        (
            {"target": "dit", "params": {"stem": 2, "channel_mult": [1]}},
            "no such key; to take a whole block.*backbone=NAME",
        ),
        ({"target": "vit", "params": {"image_size": 250}}, "image_size 250 is not a multiple of patch_size 16"),
        ({"target": "hybrid", "params": {"image_size": 100}}, "image_size 100 is not a multiple"),
        ({"target": "hybrid", "params": {"hidden_size": 100}}, "not divisible by transformer_heads 8"),
        ({"target": "resnet_attention", "params": {"channel_mult": [1, 2]}}, "a trunk has one level"),
        ({"target": "resnet_attention", "params": {"attention_resolutions": [8]}}, "set attention_every"),
        ({"target": "ds_unet", "params": {"lesion": ["swi"]}}, r"lesion is \['swi'\], and data.contrasts"),
        ({"target": "smp_unet", "params": {"encoder_weights": "imagenet"}}, "encoder_weights"),
        ({"target": "unet", "multiple": 8}, "'unet' knows its own"),
        ({"target": "resnet_attention", "params": {"resblock_updown": True}}, "a trunk has one level"),
        ({"target": "dit", "params": {"class_label": 3}}, "num_classes is not"),
        ({"target": "dit", "params": {"num_classes": 3, "class_dropout_prob": 0}}, "class_label is needed"),
        ({"target": "dit", "params": {"num_classes": 3, "class_label": 4}}, "class_label 4 is not among 4 labels"),
    ],
)
def test_nonsense_is_refused_with_a_reason(spec, says):
    with pytest.raises(ConfigError, match=says):
        registry.build(registry.BackboneTarget(**spec), LAYOUT)


@pytest.mark.parametrize(
    ("target", "params", "says"),
    [
        ("unet", {"attention_resolutions": [32, 16, 8]}, "attention_resolutions 32, 16 never occur.*1, 2, 4, 8"),
        ("unet", {"model_channels": 32}, "at 32 channels every group of the norm is one channel"),
        ("resnet_attention", {"num_res_blocks": 2}, "attention_every 4 never occurs among 2 blocks"),
    ],
)
def test_what_is_surely_not_meant_is_told(target, params, says):
    (said,) = registry.doubts(registry.BackboneTarget(target=target, params=params))
    assert re.search(says, said)
    assert not registry.doubts(registry.BackboneTarget(target=target))


def test_the_snippets_of_the_original_run_as_written():
    widened = {"model_channels": 256, "attention_resolutions": [32, 16, 8], "num_res_blocks": 3}
    dit = {"depth": 24, "hidden_size": 1152, "patch_size": 8, "num_heads": 16}
    snippets = {
        "ldm.modules.diffusionmodules.openaimodel.UNetModel": (widened, 1291.7),
        "ldm.modules.diffusionmodules.dit.DiT": (dit, 578.4),
    }
    for target, (params, millions) in snippets.items():
        config = configs.parse(
            {"data": {"context_slices": 1}, "conditioning": {"edges": "none"}, "unet_config": {"target": target, "params": params}}, "snippet"
        )  # fmt: skip
        with torch.device("meta"):
            network = config.build_backbone()
        assert sum(p.numel() for p in network.parameters() if p.requires_grad) / 1e6 == pytest.approx(millions, abs=0.1)


def test_a_name_or_a_path_that_is_no_good_is_refused(names):
    with pytest.raises(ConfigError, match="'unet' is taken"):
        registry.register("unet", "some.module:Class")
    with pytest.raises(ConfigError, match="does not name a class"):
        registry.allow("os")
    registry.allow("dsdiff.nowhere.Net")
    with pytest.raises(ConfigError, match="cannot be imported"):
        registry.lookup("dsdiff.nowhere.Net")
    registry.allow("torch.nn.Conv2d")
    with pytest.raises(ConfigError, match="Conv2d refuses them"):
        registry.build(registry.BackboneTarget(target="torch.nn.Conv2d", params={"nonsense": 1}), LAYOUT)
    fine = {"out_channels": 1, "kernel_size": 1}
    with pytest.raises(ConfigError, match=r"set backbone\.multiple"):
        registry.build(registry.BackboneTarget(target="torch.nn.Conv2d", params=fine), LAYOUT)


def test_an_answer_of_another_shape_is_refused(names):
    registry.allow("torch.nn.Conv2d")
    params = {"out_channels": 3, "kernel_size": 1}
    # a convolution takes no t: only its shape matters here
    network = registry.build(registry.BackboneTarget(target="torch.nn.Conv2d", multiple=1, params=params), LAYOUT)
    network.network.forward = lambda x, t: x[:, :3]
    cond = condition.build(
        ConditioningConfig(edges="none"), torch.zeros(1, 3, 1, 4, 4), torch.ones(1, 3, dtype=torch.bool)
    )
    with pytest.raises(ConfigError, match=r"answer is \(1, 3, 4, 4\) where x_t is \(1, 1, 4, 4\)"):
        network(torch.zeros(1, 1, 4, 4), torch.ones(1), cond)


def test_a_block_from_another_file_replaces_the_backbone(tmp_path):
    swapped = configs.load("bridge-small", ("backbone=dit-small", "backbone.params.depth=2"))
    assert swapped.backbone.target == "dit"
    assert swapped.backbone.params["depth"] == 2
    assert "model_channels" not in swapped.backbone.params
    assert swapped.training == configs.load("bridge-small").training
    (tmp_path / "none.yaml").write_text("seed: 3\n")
    with pytest.raises(ConfigError, match="must have one backbone block, it has 0"):
        configs.load("bridge-small", (f"backbone={tmp_path / 'none.yaml'}",))
    with pytest.raises(ConfigError, match=r"no such config file, nor one of: .*dit-small"):
        configs.load("bridge-small", ("backbone=dit-tiny",))


def test_absent_sources_are_nothing_whatever_stands_there():
    sources = torch.full((1, 3, 1, 4, 4), torch.nan)
    sources[:, 1] = 2.0
    cond = condition.build(ConditioningConfig(edges="sobel"), sources, torch.tensor([[False, True, False]]))
    assert cond.maps().isfinite().all()
    assert torch.equal(cond.stream(1), cond.maps()[:, [1, 4]])
    assert not cond.stream(0).any()
