"""The snippets of the document that describes the original system, run as they are written."""

import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import yaml

from dsdiff.backbones import DiT, DSUnetModel, UNet_disc_Model, UNetModel, disentangle_features, registry
from dsdiff.config.run import load_config, parse_config
from dsdiff.diffusion.registry import build_process
from dsdiff.errors import ConfigError
from dsdiff.io import splits
from tests.cli.compare_helpers import method_names, read_results, run_compare, run_jobs_inline, training_arguments
from tests.toy_data import randomize_zeros, write_case

DATA = {"context_slices": 1, "crop": [64, 64]}  # four channels: x_t, T1, T2 and FLAIR

CONSTRUCTOR = """
unet = UNetModel(
    image_size=256,
    in_channels=4,
    out_channels=1,
    model_channels=160,
    attention_resolutions=[16],
    num_res_blocks=2,
    channel_mult=[1, 2, 4, 4],
)
"""
DIT_CONSTRUCTOR = "dit = DiT(input_size=256, in_channels=4, patch_size=8, hidden_size=1152, depth=24, num_heads=16)"
TRAINING_STEP = """
noise = torch.randn_like(x_0)
x_noisy = q_sample(x_0, t, noise)
features = disentangle_features(images)
noise_pred = unet(x_noisy, t, c_concat=images)
loss = F.mse_loss(noise_pred, noise)
optimizer.zero_grad()
loss.backward()
optimizer.step()
"""
WIDENED_UNET = """
unet_config:
  target: ldm.modules.diffusionmodules.openaimodel.UNetModel
  params:
    model_channels: 256
    attention_resolutions: [32, 16, 8]
    num_res_blocks: 3
"""
DIT_SCENARIO = """
unet_config:
  target: ldm.modules.diffusionmodules.dit.DiT
  params: {depth: 24, hidden_size: 1152, patch_size: 8, num_heads: 16}
"""
HYBRID_SCENARIO = """
unet_config:
  target: hybrid
  params: {in_channels: 4, out_channels: 1, model_channels: 64, channel_mult: [1, 2, 4], hidden_size: 256, depth: 6}
"""
STEP_4 = """
training:
  learning_rate: 5e-5
  batch_size: 8
  gradient_accumulation: 2
"""
SMALL_BACKBONES = {
    "unet": {"model_channels": 32, "channel_mult": [1, 1], "num_res_blocks": 1, "use_scale_shift_norm": True},
    "dit": {"image_size": 32, "patch_size": 4, "hidden_size": 32, "depth": 1, "num_heads": 2, "in_channels": 4},
}


def run_snippet(snippet, **names):
    names |= {"torch": torch, "F": F}
    exec(snippet, names)  # noqa: S102 (our own text)
    return names


def count_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad) / 1e6


@pytest.mark.parametrize(
    ("snippet", "name", "network_class", "millions"),
    [(CONSTRUCTOR, "unet", UNetModel, 149.8), (DIT_CONSTRUCTOR, "dit", DiT, 578.4)],
)
def test_the_constructor_builds_the_network(snippet, name, network_class, millions):
    with warnings.catch_warnings(record=True) as recorded, torch.device("meta"):
        warnings.simplefilter("always")
        network = run_snippet(snippet, **{network_class.__name__: network_class})[name]
    assert count_parameters(network) == pytest.approx(millions, abs=0.1)
    messages = [str(warning.message) for warning in recorded]
    assert all("attention_resolutions 16 have no effect" in message for message in messages)
    assert len(messages) == (network_class is UNetModel)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:UNetModel. attention_resolutions 16")
def test_the_network_of_the_constructor_predicts_a_slice():
    unet = run_snippet(CONSTRUCTOR, UNetModel=UNetModel)["unet"]
    x, c, t = torch.randn(1, 1, 64, 64), torch.randn(1, 3, 64, 64), torch.tensor([500])
    with torch.no_grad():
        assert unet(x, t, c_concat=c).shape == x.shape


@pytest.mark.parametrize("network_class", [UNet_disc_Model, DSUnetModel])
def test_the_training_step_trains_the_network(network_class):
    torch.manual_seed(0)
    unet = network_class(in_channels=4, model_channels=64, channel_mult=[1, 2], num_res_blocks=1)
    randomize_zeros(unet)
    names = {
        "x_0": torch.randn(2, 1, 16, 16),
        "images": torch.randn(2, 3, 16, 16),
        "t": torch.tensor([10, 900]),
        "unet": unet,
        "q_sample": build_process("ddpm", {}).q_sample,
        "disentangle_features": partial(disentangle_features, network=unet),
        "optimizer": torch.optim.AdamW(unet.parameters(), lr=1e-3),
    }
    losses = [run_snippet(TRAINING_STEP, **names)["loss"].item() for _ in range(20)]
    assert sum(losses[-5:]) < sum(losses[:5])
    features = run_snippet(TRAINING_STEP, **names)["features"]
    assert features.shared.shape == (2, 3, 64, 8, 8)


@pytest.mark.parametrize(
    ("scenario", "millions"), [(WIDENED_UNET, 1291.7), (DIT_SCENARIO, 578.4), (HYBRID_SCENARIO, None)]
)
def test_the_scenarios_change_the_backbone_by_the_config_alone(scenario, millions):
    values = {"data": DATA, "conditioning": {"edges": "none"}} | yaml.safe_load(scenario)
    config = parse_config(values, "scenario")
    with torch.device("meta"):
        network = config.build_backbone()
    if millions is not None:
        assert count_parameters(network) == pytest.approx(millions, abs=0.5)


class TestFiveSteps:
    """Choose a backbone, edit unet_config, check the channels, adjust the training, train and compare."""

    def test_step_1_lists_the_backbones(self, cli):
        code, printed = cli("backbones")
        assert code == 0
        assert all(name in printed for name in ("unet", "vit", "dit", "transformer", "hybrid", "disc_unet", "ds_unet"))

    def test_step_3_checks_the_channels(self):
        unet_config = yaml.safe_load(DIT_SCENARIO)["unet_config"]
        for key, channels, message in (
            ("in_channels", 3, "in_channels is 3, but x_t and the condition have 4"),
            ("out_channels", 2, "returns 2 channels, process 'bridge' needs 1"),
        ):
            params = unet_config["params"] | {key: channels, "depth": 1}
            values = {"data": DATA, "unet_config": unet_config | {"params": params}}
            with pytest.raises(ConfigError, match=message), torch.device("meta"):
                parse_config(values, "test").build_backbone()

    def test_step_4_names_the_keys_of_dsdiff(self, tmp_path):
        file = tmp_path / "config.yaml"
        file.write_text(STEP_4)
        with pytest.raises(ConfigError) as error_info:
            load_config(file)
        message = str(error_info.value)
        assert "training.learning_rate: there is no such key, use training.lr;" in message
        assert "training.gradient_accumulation: there is no such key, use training.accumulate" in message
        assert "\n" not in message

        file.write_text(yaml.safe_dump(yaml.safe_load(STEP_4)["training"]))
        with pytest.raises(ConfigError, match=r"batch_size: there is no such key, use training\.batch_size"):
            load_config(file)
        file.write_text(STEP_4.replace("learning_rate", "lr").replace("gradient_accumulation", "accumulate"))
        training = load_config(file).training
        assert (training.lr, training.batch_size, training.accumulate) == (5e-5, 8, 2)

    @pytest.mark.slow
    def test_steps_2_and_5_train_another_backbone_and_compare_it_with_the_unet(self, monkeypatch, tmp_path):
        names = [f"P{seed}" for seed in range(4)]
        for seed, name in enumerate(names):
            write_case(tmp_path / "patients", name, seed)
        splits.write(splits.make(names, 2, 0), tmp_path / "split.json")

        targets = {name: target for target, name in registry.ALIASES.items()}
        for name, params in SMALL_BACKBONES.items():
            values = {
                "data": DATA | {"crop": [32, 32], "augment": False},
                "unet_config": {"target": targets[name], "params": params},
                "training": {"batch_size": 2, "accumulate": 2, "warmup": 1, "precision": "fp32"},
            }
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))

        run_jobs_inline(monkeypatch)
        arguments = training_arguments(tmp_path, "unet", "dit")
        assert run_compare(monkeypatch, *arguments, "--arm", "parameters", "-o", tmp_path / "out") == 0
        (arm,) = read_results(tmp_path / "out")["arms"]
        assert {"unet", "dit"} <= set(method_names(arm))
        assert "dit" in {result["method"] for result in arm["pairwise"]}
