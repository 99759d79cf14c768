import pytest

from dsdiff.config import run as configs
from dsdiff.errors import ConfigError


def written(tmp_path, text):
    (tmp_path / "run.yaml").write_text(text)
    return tmp_path / "run.yaml"


def test_overrides_reach_into_params(tmp_path):
    path = written(tmp_path, "backbone: {target: unet, params: {model_channels: 32}}\n")
    config = configs.load(path, ("backbone.params.model_channels=64", "training.lr=1e-3", "data.crop=[64,96]"))
    assert config.backbone.params["model_channels"] == 64
    assert config.training.lr == 1e-3
    assert config.data.crop == (64, 96)


def test_unet_config_means_backbone(tmp_path):
    snippet = (
        "unet_config: {target: ldm.modules.diffusionmodules.openaimodel.UNetModel, params: {model_channels: 64}}\n"
    )
    network = configs.load(written(tmp_path, snippet)).build_backbone()
    assert network.params.model_channels == 64


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("trainning: {steps: 3}", "trainning: there is no such key"),
        ("training: {steps: 0}", r"training\.steps: .*greater than or equal to 1 \(found 0\)"),
        ("data: {contrasts: [t2, flair]}", "start is 't1', which is not among"),
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
def test_mistakes_are_named(tmp_path, text, says):
    with pytest.raises(ConfigError, match=says):
        configs.load(written(tmp_path, text))


def test_crops_must_fit_the_backbone(tmp_path):
    config = configs.load(
        written(tmp_path, "data: {crop: [30, 32]}\nbackbone: {target: unet, params: {channel_mult: [1, 2, 2]}}")
    )
    with pytest.raises(ConfigError, match="multiples of 4"):
        config.build_backbone()


def test_a_list_takes_the_place_of_a_single_term(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("loss: {target: charbonnier, epsilon: 2.0}")
    loaded = configs.load(file, ("loss=[{target: l1}, {target: ranking, weight: 0.5}]",))
    assert [(term.target, term.weight) for term in loaded.loss] == [("l1", 1.0), ("ranking", 0.5)]


def test_a_list_is_changed_as_a_whole(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("loss: [{target: l1}, {target: ssim}]")
    with pytest.raises(ConfigError, match=r"has a list of loss: a change of it is the whole list"):
        configs.load(file, ("loss.target=l2",))


def test_a_change_within_what_is_off_does_not_turn_the_rest_on(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("data: {augment: false}\n")
    for overrides in (["data.augment.flip.probability=0.5"], ["data.augment=false", "data.augment.flip.probability=0"]):
        with pytest.raises(ConfigError, match=r"data\.augment is false, and data\.augment\.flip\.probability would"):
            configs.load(file, tuple(overrides))
    assert configs.load(file, ("data.augment=true",)).data.augment.affine.probability > 0


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"contrasts": ["t1", "t1ce"]}, "target 't1ce' is among contrasts"),
        ({"contrasts": ["t1", "t1", "t2"]}, "names one twice"),
        ({"crop": [0, 32]}, r"data\.crop\.0"),
    ],
)
def test_data_that_cannot_be_meant_are_refused(data, said):
    with pytest.raises(ConfigError, match=said):
        configs.parse({"data": data}, "test")


def test_features_of_one_contrast_are_not_compared():
    conditioning = {"encoder": "shared", "disentangle": [{"target": "common_distinct"}]}
    with pytest.raises(ConfigError, match="compares contrasts"):
        configs.parse({"data": {"contrasts": ["t1"]}, "conditioning": conditioning}, "test")


def test_overrides_must_be_pairs(tmp_path):
    with pytest.raises(ConfigError, match="'training' is not of the form key=value"):
        configs.load(written(tmp_path, "seed: 1"), ("training",))


def test_another_target_brings_its_own_params(tmp_path):
    path = written(
        tmp_path, "process: {target: bridge, params: {sigma: 0.5}}\nloss: {target: charbonnier, epsilon: 2.0}\n"
    )
    config = configs.load(path, ("process.target=ddpm", "process.params.prediction=v", "loss.target=l1"))
    assert (config.process.target, config.process.params, config.loss[0].target) == ("ddpm", {"prediction": "v"}, "l1")
    assert configs.load(path, ("process={target: regression}",)).process.params == {}
    same = configs.load(path, ("process.target=bridge", "loss.weight=2")).process.params
    assert same == {"sigma": 0.5}


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed=18446744073709551616", "seed"),
        ("[=1", "is not a config"),
        ("data.target=dwi", "what is synthesised and scored here is t1ce alone"),
    ],
)
def test_what_would_fail_later_is_refused_at_once(tmp_path, override, says):
    with pytest.raises(ConfigError, match=says):
        configs.load(written(tmp_path, "seed: 1"), (override,))


def test_losses_on_features_need_features():
    conditioning = {"disentangle": [{"target": "cross_covariance"}]}
    with pytest.raises(ConfigError, match="no shared and specific features"):
        configs.parse({"conditioning": conditioning}, "test").build_network()
    small = {"model_channels": 32, "channel_mult": [1, 2], "attention_resolutions": []}
    configs.parse({"conditioning": conditioning, "backbone": {"target": "disc_unet", "params": small}}, "test").sketch()
