import numpy as np
import pytest
import yaml

from dsdiff.config.import_config import import_config
from dsdiff.errors import ConfigError
from tests.config.disc_diff_files import CONTRAST_SYNTHESIS, DISC_SAMPLING, DISC_TRAINING, SUPER_RESOLUTION

DISC = DISC_TRAINING | CONTRAST_SYNTHESIS | {"batch_size": 6}
GUIDED = {"image_size": 256, "num_channels": 64, "num_head_channels": 32, "diffusion_steps": 1000}


def import_values(tmp_path, values):
    path = tmp_path / "guided.yaml"
    path.write_text(yaml.safe_dump(values))
    return import_config(path)


def test_disc_diff_has_its_network_process_and_losses(tmp_path):
    config = import_values(tmp_path, DISC).config
    params = config.backbone.params
    assert config.backbone.target == "disc_unet"
    assert (params["model_channels"], params["channel_mult"]) == (96, [1, 1, 2, 2, 3, 3])
    assert (params["attention_resolutions"], params["num_head_channels"]) == ([8, 16, 32], 48)
    assert params["resblock_updown"] and params["use_scale_shift_norm"]
    assert config.process.params["prediction"] == "v"
    (loss,), (disentangle,) = config.loss, config.conditioning.disentangle
    assert (loss.target, loss.epsilon, disentangle.target, disentangle.weight) == (
        "charbonnier",
        1e-3,
        "common_over_distinct",
        1,
    )
    assert (config.training.lr, config.training.final_lr) == (1e-4, 1e-4)  # constant
    assert (config.training.batch_size, config.training.ema, config.training.weight_decay) == (6, (0.9999,), 0)
    assert config.data.crop == (224, 224)


def test_disc_diff_for_super_resolution_has_two_inputs(tmp_path):
    config = import_values(tmp_path, DISC_TRAINING | SUPER_RESOLUTION | {"batch_size": 5}).config
    assert config.data.contrasts == ("t1", "t2")
    assert config.process.params["prediction"] == "eps"
    assert config.training.steps == 200_000


@pytest.mark.parametrize("timesteps", [500, 1000, 4000])
def test_linear_betas_are_scaled_with_the_number_of_timesteps(tmp_path, timesteps):
    process = import_values(tmp_path, DISC | {"diffusion_steps": timesteps}).config.build_process()
    scale = 1000 / timesteps
    betas = np.linspace(scale * 1e-4, scale * 0.02, timesteps)
    np.testing.assert_allclose(process.alpha_bar[1:], np.cumprod(1 - betas), rtol=1e-9)


def test_learned_variance_is_left_out_and_noted(tmp_path):
    imported = import_values(tmp_path, DISC)
    assert imported.config.build_process().out_channels == 1
    assert any(note.startswith("learn_sigma (True): dsdiff does not learn the variance") for note in imported.notes)


@pytest.mark.parametrize(
    ("method", "respacing", "expected"),
    [
        ("ddim", "20", {"target": "ddim", "params": {"steps": 20, "spacing": "linspace", "eta": 0.0}}),
        ("ddim", "ddim25", {"target": "ddim", "params": {"steps": 25, "spacing": "leading", "eta": 0.0}}),
        ("guided", "50", {"target": "ancestral", "params": {"steps": 50, "spacing": "linspace"}}),
    ],
)
def test_respacing_is_that_of_the_sampler(tmp_path, method, respacing, expected):
    values = DISC_SAMPLING | CONTRAST_SYNTHESIS | {"sampling_method": method, "timestep_respacing": respacing}
    assert import_values(tmp_path, values).config.sampler.model_dump() == expected


def test_microbatches_are_accumulated(tmp_path):
    training = import_values(tmp_path, DISC | {"batch_size": 8, "microbatch": 3}).config.training
    assert (training.batch_size, training.accumulate) == (3, 3)


def test_annealing_sets_the_number_of_steps(tmp_path):
    training = import_values(tmp_path, DISC | {"lr_anneal_steps": 1000}).config.training
    assert (training.steps, training.final_lr) == (1000, 0)


def test_unet_of_guided_diffusion_with_mri_channels(tmp_path):
    config = import_values(tmp_path, GUIDED | {"in_channels": 4, "out_channels": 1}).config
    params = config.backbone.params
    assert config.backbone.target == "unet"
    assert params["channel_mult"] == [1, 1, 2, 2, 4, 4]  # of image_size 256
    assert params["attention_resolutions"] == [16, 32]  # 16 and 8 pixels
    assert params["use_scale_shift_norm"] is True
    assert config.loss[0].target == "l2"
    config.meta_network()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": None}, "color images"),
        ({"class_cond": True}, "class embedding"),
        ({"small_size": 64}, "lower resolution"),
        ({"dims": 3}, r"dims \(3\)"),
        ({"use_kl": True}, "variational bound"),
        ({"rescale_timesteps": True, "diffusion_steps": 4000}, "times scaled to 1000"),
        ({"noise_schedule": "sigmoid"}, "noise_schedule is 'sigmoid'"),
        ({"diffusion_steps": 0}, "diffusion_steps is 0"),
        ({"channel_mult": "1,two"}, "channel_mult is '1,two'"),
        ({"image_size": 100}, "none for image_size 100"),
        ({"timestep_respacing": "10,20"}, "spaces its steps evenly"),
        ({"out_channels": 6}, r"out_channels \(6\)"),
    ],
)
def test_unsupported_files_raise_in_one_line(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message) as error:
        import_values(tmp_path, GUIDED | {"in_channels": 4} | change)
    assert "\n" not in str(error.value)
