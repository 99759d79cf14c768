import pytest
import yaml

from dsdiff.config.import_config import import_config
from dsdiff.config.run import load_config
from dsdiff.errors import ConfigError
from tests.config.original_files import write_original_files
from tests.config.trainer_files import INFERENCE_CONFIG, SAMPLER_SETTING, TRAIN_CONFIG_BRATS


@pytest.fixture
def folder(tmp_path):
    write_original_files(tmp_path)
    return tmp_path / "configs"


def import_values(folder, values):
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump(values))
    return import_config(path)


def test_train_config_takes_the_network_of_its_file(folder):
    config = import_config(folder / "train_config_BraTs.yaml").config
    assert config == load_config("ds-diff")  # the values of the tree are those of the recipe


def test_train_config_converts_the_training(folder):
    changes = {
        "train_batch_size": 8,
        "lr": "5e-5",
        "lr_low": 0,
        "num_epochs": 20,
        "lr_warm_epoch": 2,
        "seed": 7,
        "contrast_lambda": 0.1,
        "use_edge": "canny",
        "augmentation_prob": 0,
        "train_keys": ["T1", "flair", "t1ce"],
        "sampler_setting": SAMPLER_SETTING | {"sampler": "dpm", "sample_steps": 10},
        "config_opt": "elsewhere/v2-1-cddpm-disc.yaml",
    }
    imported = import_values(folder, TRAIN_CONFIG_BRATS | changes)
    config, training = imported.config, imported.config.training
    assert (training.batch_size, training.lr, training.final_lr) == (8, 5e-5, 0)
    assert (training.steps, training.warmup, config.seed) == (20_000, 2000, 7)
    assert config.conditioning.edges == "canny"
    assert config.data.contrasts == ("t1", "flair")
    assert config.data.augment.flip.probability == 0
    assert config.sampler.model_dump() == {"target": "dpmpp_2m", "params": {"steps": 10, "spacing": "leading"}}
    assert any(note.startswith("num_epochs (20): dsdiff counts steps") for note in imported.notes)


@pytest.mark.parametrize(("weight", "distance"), [(0, "eu"), (0.5, None)])
def test_disentangling_can_be_off(folder, weight, distance):
    values = TRAIN_CONFIG_BRATS | {"contrast_lambda": weight, "disentangle_distance": distance}
    assert import_values(folder, values).config.conditioning.disentangle == ()


def test_weight_of_disentangling_is_converted(folder):
    terms = import_values(folder, TRAIN_CONFIG_BRATS | {"contrast_lambda": 0.1}).config.conditioning.disentangle
    assert [(term.target, term.weight) for term in terms] == [("content_style", 0.1), ("anatomy_lesion", 0.1)]


def test_train_config_without_its_network_file_takes_the_equal_recipe(tmp_path):
    imported = import_values(tmp_path, TRAIN_CONFIG_BRATS)
    assert imported.config == load_config("ds-diff")
    assert any("recipe ds-diff equals its import" in note for note in imported.notes)


@pytest.mark.parametrize(("mode", "recipe"), [("ds_diff", "ds-diff"), ("ds_diff_gaussian", "ds-diff-96")])
def test_inference_config_changes_the_sampler_of_a_recipe(folder, mode, recipe):
    changes = {"net_mode": mode, "seed": 3, "sampler_setting": SAMPLER_SETTING | {"sample_steps": 50, "ddim_eta": 1}}
    config = import_values(folder, INFERENCE_CONFIG | changes).config
    assert config.backbone == load_config(recipe).backbone
    assert config.seed == 3
    assert (config.sampler.params["steps"], config.sampler.params["eta"]) == (50, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (TRAIN_CONFIG_BRATS | {"config_opt": "mine.yaml"}, "names the file of the network, mine.yaml"),
        (TRAIN_CONFIG_BRATS | {"config_opt": "v1-inference.yaml"}, "cannot be imported"),
        (TRAIN_CONFIG_BRATS | {"disentangle_distance": "contrast"}, "no contrastive loss"),
        (TRAIN_CONFIG_BRATS | {"model_type": "vit"}, "model_type"),
        (TRAIN_CONFIG_BRATS | {"use_edge": "prewitt"}, "use_edge"),
        (TRAIN_CONFIG_BRATS | {"num_epochs": 0}, "num_epochs is 0"),
        (TRAIN_CONFIG_BRATS | {"lr": "fast"}, "lr is fast"),
        (TRAIN_CONFIG_BRATS | {"sampler_setting": {"sampler": "plms"}}, "sampler is 'plms'"),
        (INFERENCE_CONFIG | {"net_mode": "diffusion"}, "net_mode is 'diffusion'"),
        (INFERENCE_CONFIG | {"net_mode": ["ddpm"]}, "net_mode"),
    ],
)
def test_unsupported_files_raise_in_one_line(folder, values, message):
    with pytest.raises(ConfigError, match=message) as error:
        import_values(folder, values)
    assert "\n" not in str(error.value)
