"""Checkpoints that cannot be imported raise one error."""

import argparse

import pytest
import torch

from dsdiff.config.import_weights import import_weights
from dsdiff.config.run import dump_config, parse_config
from dsdiff.errors import ConfigError, ModelError
from tests.original_checkpoints import HEADS, build_original, lightning_state, save_state, write_old_config


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"down_blocks.0.resnets.0.conv1.weight": torch.ones(1)}, "a UNet of diffusers, which dsdiff does not have"),
        ({"cls_token": torch.ones(1)}, "a vision transformer of timm"),
        ({"some.weight": torch.ones(1)}, "an unknown network whose weights begin with some.weight"),
        ({"input_blocks.0.0.weight": torch.ones(32, 4, 3, 3)}, "looks? like backbone 'unet', but not all.*--config"),
        ({"state": {}, "param_groups": []}, "the state of an optimizer"),
        ({"epoch": 3}, "no weights by name; its first keys are: epoch"),
        ({"\x1b[2J": torch.ones(1)}, "names are not readable"),
        ({"a" * 201: torch.ones(1)}, "names are not readable"),
        ([torch.ones(1)], "holds a list"),
        (argparse.Namespace(a=1), r"a pickled argparse\.Namespace.*state_dict"),
    ],
)
def test_other_contents_raise_an_error(tmp_path, contents, message):
    with pytest.raises(ModelError, match=message):
        import_weights(save_state(tmp_path / "other.pt", contents), None)


def test_options_that_the_unet_does_not_have_raise_an_error(tmp_path):
    weights = build_original("unet")
    for name, message in (
        ("input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight", "spatial transformer"),
        ("label_emb.weight", "class labels"),
    ):
        path = save_state(tmp_path / "model.pt", weights | {name: torch.ones(1)})
        with pytest.raises(ModelError, match=message):
            import_weights(path, None, HEADS)
    path = save_state(tmp_path / "model.pt", weights | {"input_blocks.0.0.weight": torch.ones(32, 3, 3, 3)})
    with pytest.raises(ModelError, match=r"2 channels, not the 3 of t1, t2, flair.*--config"):
        import_weights(path, None, HEADS)


def test_weights_do_not_tell_the_number_of_heads(tmp_path):
    path = save_state(tmp_path / "model.pt", build_original("unet"))
    with pytest.raises(ModelError, match=r"number of attention heads.*--config.*num_head_channels=N or .*num_heads=N"):
        import_weights(path, None)


def test_weights_of_another_architecture_raise_an_error(tmp_path):
    old = write_old_config(tmp_path / "old.yaml")
    path = save_state(tmp_path / "model.pt", build_original("dit"))
    with pytest.raises(ModelError, match=r"missing.*unexpected \(.*backbone 'dit'.*the config has backbone 'unet'"):
        import_weights(path, old)
    path = save_state(tmp_path / "other.pt", {"down_blocks.0.resnets.0.conv1.weight": torch.ones(1)})
    with pytest.raises(ModelError, match=r"missing \(.*1 unexpected \(down_blocks.*look like a UNet of diffusers"):
        import_weights(path, old)
    path = save_state(tmp_path / "wide.pt", build_original("unet", model_channels=64))
    with pytest.raises(ModelError, match=r"is \(256, 64\), the network needs \(128, 32\)"):
        import_weights(path, old)


def test_another_schedule_than_that_of_the_checkpoint_raises_an_error(tmp_path):
    state = lightning_state(build_original("unet"), timesteps=2000)
    path = save_state(tmp_path / "last.ckpt", {"state_dict": state})
    old = write_old_config(tmp_path / "old.yaml")
    with pytest.raises(ModelError, match=r"another schedule.*add .*process\.params\.timesteps=2000"):
        import_weights(path, old)
    assert import_weights(path, old, ("process.params.timesteps=2000",)).config.process.params["timesteps"] == 2000
    state["betas"] = torch.rand(10)
    with pytest.raises(ModelError, match="betas of no known schedule"):
        import_weights(save_state(path, {"state_dict": state}), None, HEADS)


def test_a_missing_version_of_the_weights_raises_an_error(tmp_path):
    weights = build_original("dit")
    path = save_state(tmp_path / "last.ckpt", {"state_dict": lightning_state(weights)})
    with pytest.raises(ModelError, match=r"no averaged weights.*leave out --ema"):
        import_weights(path, None, (), True)
    with pytest.raises(ModelError, match=r"only averaged weights.*leave out --no-ema"):
        import_weights(save_state(tmp_path / "ema_0.9999.pt", weights), None, (), False)


def test_values_that_are_not_finite_raise_an_error(tmp_path):
    weights = build_original("dit")
    weights["blocks.0.attn.qkv.bias"][3] = torch.nan
    with pytest.raises(ModelError, match=r"not finite, first in blocks\.0\.attn\.qkv\.bias"):
        import_weights(save_state(tmp_path / "model.pt", weights), None)


def test_an_unknown_target_raises_an_error(tmp_path):
    path = save_state(tmp_path / "model.pt", build_original("unet"))
    old = write_old_config(tmp_path / "old.yaml")
    old.write_text(old.read_text().replace("ldm.modules.diffusionmodules.openaimodel.UNetModel", "os.system"))
    with pytest.raises(ConfigError, match=r"'os\.system' is unknown"):
        import_weights(path, old)
    (tmp_path / "ours.yaml").write_text(dump_config(parse_config({"backbone": {"target": "os.system"}}, "test")))
    with pytest.raises(ConfigError, match=r"'os\.system' is unknown"):
        import_weights(path, tmp_path / "ours.yaml")
