from importlib.resources import files
from pathlib import Path

import pytest

from dsdiff.config.overrides import _INSTALLED
from dsdiff.config.run import load_config, parse_config
from dsdiff.errors import ConfigError


def write_config(tmp_path, text):
    (tmp_path / "run.yaml").write_text(text)
    return tmp_path / "run.yaml"


def test_overrides_reach_into_params(tmp_path):
    path = write_config(tmp_path, "backbone: {target: unet, params: {model_channels: 32}}\n")
    config = load_config(path, ("backbone.params.model_channels=64", "training.lr=1e-3", "data.crop=[64,96]"))
    assert config.backbone.params["model_channels"] == 64
    assert config.training.lr == 1e-3
    assert config.data.crop == (64, 96)


def test_unet_config_means_backbone(tmp_path):
    snippet = (
        "unet_config: {target: ldm.modules.diffusionmodules.openaimodel.UNetModel, params: {model_channels: 64}}\n"
    )
    network = load_config(write_config(tmp_path, snippet)).build_backbone()
    assert network.params.model_channels == 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainning: {steps: 3}", "trainning: there is no such key"),
        ("training: {steps: 0}", r"training\.steps: .*greater than or equal to 1 \(found 0\)"),
        ("data: {contrasts: [t2, flair]}", "source_contrast is 't1', which is not among"),
        ("data: {fold: 1}", "split and fold go together"),
        ("process: {target: brigde}", "brigde"),
        ("backbone: {target: unet}\nunet_config: {target: unet}", "two names of one block"),
        ("a: [1", "is not a config"),
        ("seed: ${oc.env:HOME}", "seed"),
        ("seed: -1", "seed"),
        ("- a list", "is not a config"),
        ("data: {root: a, phantoms: b}", "phantom_fraction is 0"),
    ],
)
def test_invalid_configs_raise(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write_config(tmp_path, text))


def test_crop_must_fit_the_backbone(tmp_path):
    config = load_config(
        write_config(tmp_path, "data: {crop: [30, 32]}\nbackbone: {target: unet, params: {channel_mult: [1, 2, 2]}}")
    )
    with pytest.raises(ConfigError, match="multiples of 4"):
        config.build_backbone()


def test_list_override_replaces_a_single_term(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("loss: {target: charbonnier, epsilon: 2.0}")
    config = load_config(file, ("loss=[{target: l1}, {target: ranking, weight: 0.5}]",))
    assert [(term.target, term.weight) for term in config.loss] == [("l1", 1.0), ("ranking", 0.5)]


def test_list_is_overridden_as_a_whole(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("loss: [{target: l1}, {target: ssim}]")
    with pytest.raises(ConfigError, match=r"has a list for loss: override the whole list"):
        load_config(file, ("loss.target=l2",))


def test_override_inside_a_disabled_block_raises(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("data: {augment: false}\n")
    for overrides in (["data.augment.flip.probability=0.5"], ["data.augment=false", "data.augment.flip.probability=0"]):
        with pytest.raises(ConfigError, match=r"data\.augment is false, and data\.augment\.flip\.probability would"):
            load_config(file, tuple(overrides))
    assert load_config(file, ("data.augment=true",)).data.augment.affine.probability > 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"contrasts": ["t1", "t1ce"]}, "target 't1ce' is among contrasts"),
        ({"contrasts": ["t1", "t1", "t2"]}, "names one twice"),
        ({"crop": [0, 32]}, r"data\.crop\.0"),
    ],
)
def test_invalid_data_settings_raise(data, message):
    with pytest.raises(ConfigError, match=message):
        parse_config({"data": data}, "test")


def test_comparing_contrasts_needs_two():
    conditioning = {"encoder": "shared", "disentangle": [{"target": "common_distinct"}]}
    with pytest.raises(ConfigError, match="compares contrasts"):
        parse_config({"data": {"contrasts": ["t1"]}, "conditioning": conditioning}, "test")


def test_override_without_value_raises(tmp_path):
    with pytest.raises(ConfigError, match="'training' is not of the form key=value"):
        load_config(write_config(tmp_path, "seed: 1"), ("training",))


def test_new_target_starts_from_its_own_defaults(tmp_path):
    path = write_config(
        tmp_path, "process: {target: bridge, params: {sigma: 0.5}}\nloss: {target: charbonnier, epsilon: 2.0}\n"
    )
    config = load_config(path, ("process.target=ddpm", "process.params.prediction=v", "loss.target=l1"))
    assert (config.process.target, config.process.params, config.loss[0].target) == ("ddpm", {"prediction": "v"}, "l1")
    assert load_config(path, ("process={target: regression}",)).process.params == {}
    unchanged_params = load_config(path, ("process.target=bridge", "loss.weight=2")).process.params
    assert unchanged_params == {"sigma": 0.5}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=18446744073709551616", "seed"),
        ("[=1", "its key cannot be read"),
        ("data.target=dwi", "dsdiff synthesizes and scores only t1ce"),
    ],
)
def test_invalid_overrides_raise(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write_config(tmp_path, "seed: 1"), (override,))


def test_disentangle_losses_need_features():
    conditioning = {"disentangle": [{"target": "cross_covariance"}]}
    with pytest.raises(ConfigError, match="needs shared and specific features"):
        parse_config({"conditioning": conditioning}, "test").build_network()
    small = {"model_channels": 32, "channel_mult": [1, 2], "attention_resolutions": []}
    parse_config(
        {"conditioning": conditioning, "backbone": {"target": "disc_unet", "params": small}}, "test"
    ).meta_network()


def test_the_anatomy_lesion_loss_needs_the_heads_of_ds_unet():
    conditioning = {"encoder": "shared", "disentangle": [{"target": "anatomy_lesion"}]}
    small = {"model_channels": 32, "channel_mult": [1, 2], "attention_resolutions": []}

    def build(target):
        values = {"conditioning": conditioning, "backbone": {"target": target, "params": small}}
        return parse_config(values, "test").meta_network()

    with pytest.raises(ConfigError, match="needs an anatomy head and a lesion head; backbone 'disc_unet' has none"):
        build("disc_unet")
    build("ds_unet")


def test_configs_of_a_wheel_are_found_in_the_package():
    package = Path(str(files("dsdiff")))
    assert _INSTALLED.relative_to(package) == Path("assets", "configs")  # see force-include in pyproject.toml
