"""Checkpoints of other programs become model folders."""

import argparse

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from dsdiff.backbones import registry
from dsdiff.config.import_weights import import_weights, save_imported
from dsdiff.config.run import dump_config, parse_config
from dsdiff.errors import OutputError
from dsdiff.inference.model import load_model
from dsdiff.originals.infer_backbone import infer_backbone
from dsdiff.originals.state_dicts import restore_state_dict
from tests.original_checkpoints import HEADS, PARAMS, build_original, lightning_state, save_state, write_old_config

CPU = torch.device("cpu")


def load_backbone(model, folder, path):
    """Weights of the backbone of an imported model, by the names of its original."""
    save_imported(model, path, None, folder)
    backbone = load_model(folder, CPU).network.backbone
    return restore_state_dict(backbone.state_dict(), backbone)


def assert_same(loaded, expected):
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(loaded[name], tensor), name


HYPER_PARAMETERS = {
    "none": {},
    "plain": {"hyper_parameters": {"lr": 1e-4, "unet_config": {"params": {"model_channels": 32}}}},
    "namespace": {"hyper_parameters": argparse.Namespace(lr=1e-4, channels=[1, 2])},
    "omegaconf": {"hyper_parameters": OmegaConf.create({"lr": 1e-4, "unet_config": {"params": [1, 2]}})},
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", HYPER_PARAMETERS)
def test_a_lightning_checkpoint_is_imported(tmp_path, kind, legacy):
    weights = build_original("unet")
    training = {"epoch": 3, "global_step": 10, "callbacks": {}, "pytorch-lightning_version": "1.9.0"}
    contents = {"state_dict": lightning_state(weights), **training, **HYPER_PARAMETERS[kind]}
    torch.save(contents, tmp_path / "last.ckpt", _use_new_zipfile_serialization=not legacy)

    model = import_weights(tmp_path / "last.ckpt", None, HEADS)
    assert model.origin == "the weights model.diffusion_model.* of the last step"
    assert model.config.process.params == {
        "schedule": "scaled_linear",
        "timesteps": 1000,
        "beta_start": 1e-4,
        "beta_end": 0.02,
    }
    assert_same(load_backbone(model, tmp_path / "model", tmp_path / "last.ckpt"), weights)
    expected_names = {"namespace": "argparse.Namespace", "omegaconf": "omegaconf.dictconfig.DictConfig"}
    assert (expected_names.get(kind) in model.skipped_names) == (kind in expected_names)


def test_averaged_weights_are_taken_if_the_checkpoint_has_them(tmp_path):
    weights = build_original("dit")
    averages = {name: tensor + 1 for name, tensor in weights.items() if name != "pos_embed"}  # which is not trained
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": lightning_state(weights, averages)}, path)

    for average, expected in ((None, averages), (True, averages), (False, weights)):
        model = import_weights(path, None, (), average)
        assert ("EMA" in model.origin) == (expected is averages)
        assert_same(load_backbone(model, tmp_path / str(average), path), weights | expected)


@pytest.mark.parametrize("average", [None, False])
def test_both_versions_of_a_dit_checkpoint_are_imported(tmp_path, average):
    weights = build_original("dit", num_classes=10, learn_sigma=True)
    averages = {name: tensor + 1 for name, tensor in weights.items()}
    path = tmp_path / "0100000.pt"
    torch.save({"model": weights, "ema": averages, "opt": {}, "args": argparse.Namespace(model="DiT-S/8")}, path)

    model = import_weights(path, None, (), average)
    assert model.origin == ("the weights in 'model'" if average is False else "the averaged weights (EMA) in 'ema'")
    assert any("variance" in line for line in model.assumptions)
    loaded = load_backbone(model, tmp_path / "model", path)
    expected = weights if average is False else averages
    prediction_rows = expected["final_layer.linear.weight"].view(8, 8, 2, 384)[:, :, 0].reshape(64, 384)
    assert torch.equal(loaded["final_layer.linear.weight"], prediction_rows)
    assert torch.equal(loaded["y_embedder.embedding_table.weight"], expected["y_embedder.embedding_table.weight"])


@pytest.mark.parametrize("target", ["disc_unet", "ds_unet"])
@pytest.mark.parametrize("name", ["model100000.pt", "ema_0.9999_100000.pt"])
def test_files_of_guided_diffusion_are_imported(tmp_path, target, name):
    weights = build_original(target)
    torch.save(weights, tmp_path / name)
    model = import_weights(tmp_path / name, None, HEADS)
    assert ("EMA" in model.origin) == name.startswith("ema")
    assert model.config.backbone.target == target
    assert_same(load_backbone(model, tmp_path / "model", tmp_path / name), weights)


def test_a_learned_variance_of_a_unet_is_left_out(tmp_path):
    weights = build_original("unet", out_channels=2)
    torch.save(weights, tmp_path / "model.pt")
    model = import_weights(tmp_path / "model.pt", None, HEADS)
    loaded = load_backbone(model, tmp_path / "model", tmp_path / "model.pt")
    assert torch.equal(loaded["out.2.weight"], weights["out.2.weight"][:1])
    assert torch.equal(loaded["out.2.bias"], weights["out.2.bias"][:1])


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.unet."])
def test_plain_state_dicts_and_safetensors_are_imported(tmp_path, prefix):
    weights = build_original("unet")
    prefixed = {prefix + name: tensor for name, tensor in weights.items()}
    torch.save(prefixed, tmp_path / "a.pt")
    torch.save({"model_state_dict": prefixed, "epoch": 3}, tmp_path / "b.pth")
    save_file(prefixed, tmp_path / "c.safetensors")
    for name in ("a.pt", "b.pth", "c.safetensors"):
        model = import_weights(tmp_path / name, None, HEADS)
        assert_same(load_backbone(model, tmp_path / f"model {name}", tmp_path / name), weights)


def test_the_config_of_the_training_decides(tmp_path):
    torch.save({"state_dict": lightning_state(build_original("unet"))}, tmp_path / "last.ckpt")
    old = write_old_config(tmp_path / "old.yaml")
    model = import_weights(tmp_path / "last.ckpt", old)
    assert model.config.process.params["prediction"] == "v"
    assert model.config.backbone.params["num_head_channels"] == 32
    assert any("image_size" in line for line in model.assumptions)

    (tmp_path / "ours.yaml").write_text(dump_config(model.config))
    same = import_weights(tmp_path / "last.ckpt", tmp_path / "ours.yaml", ("process.params.prediction=eps",))
    assert same.config.process.params["prediction"] == "eps"
    assert same.config.backbone == model.config.backbone


@pytest.mark.parametrize(
    ("target", "changes", "config_params"),
    [
        ("disc_unet", {"excitation_bias": True}, {}),
        ("ds_unet", {"excitation_bias": True}, {}),
        ("dit", {"num_classes": 10, "learn_sigma": True}, {"learn_sigma": True}),
    ],
)
def test_the_weights_decide_what_the_config_does_not_tell(tmp_path, target, changes, config_params):
    path = save_state(tmp_path / "model.pt", build_original(target, **changes))
    backbone = {"target": target, "params": PARAMS[target] | config_params}
    values = {"data": {"context_slices": 1}, "conditioning": {"edges": "none"}, "process": {"target": "ddpm"}}
    (tmp_path / "ours.yaml").write_text(dump_config(parse_config(values | {"backbone": backbone}, "test")))
    model = import_weights(path, tmp_path / "ours.yaml")
    assert any("the weights decide" in line for line in model.assumptions)
    for name, value in changes.items():
        assert model.config.backbone.params[name] == (value if name != "learn_sigma" else False)
    load_backbone(model, tmp_path / "model", path)


def test_the_model_card_says_where_the_weights_are_from(tmp_path):
    torch.save({"state_dict": lightning_state(build_original("unet"))}, tmp_path / "last.ckpt")
    old = write_old_config(tmp_path / "old.yaml")
    save_imported(import_weights(tmp_path / "last.ckpt", old), tmp_path / "last.ckpt", old, tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    for text in ("last.ckpt (sha256 ", "old.yaml", "Not evaluated", "robust z-scores", "[-1, 1]", "last step"):
        assert text in card
    assert str(tmp_path) not in card
    with pytest.raises(OutputError, match="exists already and is not empty"):
        save_imported(import_weights(tmp_path / "last.ckpt", old), tmp_path / "last.ckpt", old, tmp_path / "model")


@pytest.mark.parametrize(
    ("target", "changes"),
    [
        ("unet", {}),
        ("unet", {"resblock_updown": True, "channel_mult": [1, 1, 2], "num_res_blocks": [1, 2, 3]}),
        ("unet", {"conv_resample": False, "attention_resolutions": []}),
        ("unet", {"model_channels": 64, "channel_mult": [0.5, 1.5], "use_scale_shift_norm": False}),
        ("disc_unet", {"excitation_bias": True, "attention_resolutions": [1, 2]}),
        ("ds_unet", {"resblock_updown": True, "num_res_blocks": 2}),
        ("dit", {"mlp_ratio": 2.0, "num_classes": 4}),
        ("dit", {"hidden_size": 1152, "num_heads": 16, "patch_size": 16, "image_size": 64}),
    ],
)
def test_parameters_are_inferred_from_shapes(target, changes):
    weights = build_original(target, **changes)
    inferred = infer_backbone({name: tuple(tensor.shape) for name, tensor in weights.items()})
    heads = {"num_head_channels": 32} if inferred.head_params else {}
    params_class = registry.lookup(target).Params
    assert params_class(**inferred.params, **heads) == params_class(**PARAMS[target] | changes)
    assert inferred.target == target
