import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dsdiff.backbones import disc_unet, ds_unet
from dsdiff.config.import_config import import_config
from dsdiff.config.run import load_config
from dsdiff.errors import ConfigError
from dsdiff.training.losses import charbonnier_loss
from tests.config.original_files import IMPORTED_FILES, ORIGINAL_FILES, write_original_files
from tests.toy_data import run_command

SCRIPT = Path(__file__).parents[2] / "scripts" / "experiments" / "import_original.py"
RECIPES = {
    "disc-diff": "disc-diff",
    "disc-diff-origin": "disc-diff-origin",
    "v2-1-cddpm": "v2-1-cddpm",
    "v2-1-cddpm-disc": "v2-1-cddpm-disc",
    "ds-diff": "v2-1-cddpm-ds-disc",
    "ds-diff-96": "v2-1-cddpm-ds-disc-openai-diffusion",
    "ds-diff-big": "v2-1-cddpm-ds-big",
    "ds-diff-syndiff": "v2-1-cddpm-ds-syndiff",
}
N_PARAMETERS = {  # in millions, of the original's networks
    "disc-diff": 272.1,
    "disc-diff-origin": 85.3,
    "v2-1-cddpm-disc": 45.1,
    "ds-diff": 981.5,
    "ds-diff-96": 93.6,
    "ds-diff-big": 223.5,
    "ds-diff-syndiff": 55.2,
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    write_original_files(folder)
    return folder


@pytest.mark.parametrize("name", IMPORTED_FILES)
def test_original_file_is_imported_and_builds_its_network(originals, name):
    imported = import_config(originals / name)
    imported.config.meta_network()
    assert not [note for note in imported.notes if "dsdiff has no such setting" in note]


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_equals_the_import_of_the_original_file(originals, recipe):
    assert load_config(recipe) == import_config(originals / "configs" / f"{RECIPES[recipe]}.yaml").config


@pytest.mark.parametrize("recipe", N_PARAMETERS)
def test_recipe_has_as_many_parameters_as_the_original(recipe):
    n_parameters = sum(parameter.numel() for parameter in load_config(recipe).meta_network().parameters())
    assert round(n_parameters / 1e6, 1) == N_PARAMETERS[recipe]


@pytest.mark.parametrize("name", ["disc-diff", "v2-1-cddpm-ds-disc"])
def test_disentangled_network_has_the_structure_of_the_original(originals, name):
    backbone = import_config(originals / "configs" / f"{name}.yaml").config.backbone
    structure = {"disc_unet": disc_unet, "ds_unet": ds_unet}[backbone.target].ORIGINAL_STRUCTURE
    assert structure.items() <= backbone.params.items()


def test_linear_schedule_of_latent_diffusion_is_linear_in_the_root_of_beta(originals):
    process = import_config(originals / "configs" / "v2-1-cddpm-disc.yaml").config.build_process()
    betas = np.linspace(1e-4**0.5, 0.02**0.5, 2000) ** 2
    np.testing.assert_allclose(process.alpha_bar[1:].numpy(), np.cumprod(1 - betas), rtol=1e-9)
    assert float(process.alpha_bar[1001]) == pytest.approx(0.110, abs=1e-3)


def test_charbonnier_has_the_gradient_of_the_original_loss(originals):
    (loss,) = import_config(originals / "configs" / "v2-1-cddpm-ds-disc.yaml").config.loss
    error = torch.linspace(-2, 2, 400, dtype=torch.float64).reshape(1, 1, 20, 20).requires_grad_()
    original = (error.square() + 1e-6).sqrt()
    converted = charbonnier_loss(error, loss.epsilon)
    torch.testing.assert_close(converted + loss.epsilon, original)
    gradients = [torch.autograd.grad(value.sum(), error, retain_graph=True)[0] for value in (converted, original)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("disc-diff", [("common_over_distinct", 1)]),
        ("v2-1-cddpm-ds-disc", [("content_style", 0.5), ("anatomy_lesion", 0.5)]),
        ("v2-1-cddpm-disc", []),
    ],
)
def test_disentangling_loss_is_on_as_in_the_trainer(originals, name, expected):
    terms = import_config(originals / "configs" / f"{name}.yaml").config.conditioning.disentangle
    assert [(term.target, term.weight) for term in terms] == expected


def test_parameters_without_effect_are_noted(originals):
    notes = import_config(originals / "configs" / "v2-1-cddpm-ds-disc.yaml").notes
    inert = {note.split(" (")[0].rsplit(".", 1)[-1] for note in notes if "no effect there" in note}
    assert inert == {"adm_in_channels", "use_linear_in_transformer", "transformer_depth", "image_size"}


def test_process_of_guided_diffusion_wins_over_betas_of_latent_diffusion(originals):
    imported = import_config(originals / "configs" / "v2-1-cddpm-ds-disc-openai-diffusion.yaml")
    assert imported.config.process.params == {
        "schedule": "linear",
        "timesteps": 1000,
        "prediction": "v",
        "beta_start": 1e-4,
        "beta_end": 0.02,
    }
    assert "resblock_updown" not in imported.config.backbone.params  # only unet_config reaches the network
    assert imported.config.sampler.params["spacing"] == "linspace"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("configs/v1-inference.yaml", "text"),
        ("configs/v2-1-stable-unclip-h-inference.yaml", "latents of an autoencoder"),
        ("configs/v2-1-stable-unclip-h-inference-origin.yaml", "class or image embedding"),
        ("configs/autoencoder_kl_sdv1.yaml", "autoencoder"),
        ("latent-diffusion/configs/latent-diffusion/ffhq-ldm-vq-4.yaml", "latents"),
        ("latent-diffusion/configs/latent-diffusion/cin-ldm-vq-f8.yaml", "latents"),
        ("latent-diffusion/models/ldm/bsr_sr/config.yaml", "latents"),
        ("latent-diffusion/configs/autoencoder/autoencoder_kl_64x64x3.yaml", "autoencoder"),
    ],
)
def test_networks_on_latents_and_with_text_are_refused(originals, name, reason, monkeypatch, capsys):
    with pytest.raises(ConfigError, match=reason):
        import_config(originals / name)
    assert run_command(monkeypatch, "import-config", originals / name) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_table_has_a_row_for_every_file(originals):
    result = subprocess.run([sys.executable, SCRIPT, originals], capture_output=True, text=True, check=True)
    rows = result.stdout.strip().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == sorted(ORIGINAL_FILES)
    assert sum("| refused: " in row for row in rows) == len(ORIGINAL_FILES) - len(IMPORTED_FILES)


@pytest.mark.parametrize("recipe", ["disc-diff", "disc-diff-origin", "v2-1-cddpm-disc", "ds-diff"])
def test_small_recipe_differs_only_in_size_and_training(recipe):
    large, small = load_config(recipe), load_config(f"{recipe}-small")
    for block in ("seed", "conditioning", "process", "sampler", "loss"):
        assert getattr(small, block) == getattr(large, block)
    assert small.data.model_copy(update={"crop": large.data.crop}) == large.data
    assert small.backbone.target == large.backbone.target
    structure = {"disc_unet": disc_unet.ORIGINAL_STRUCTURE, "ds_unet": ds_unet.ORIGINAL_STRUCTURE}
    assert structure.get(small.backbone.target, {}).items() <= small.backbone.params.items()


@pytest.mark.parametrize("recipe", ["ds-diff-dit", "ds-diff-hybrid", "ds-diff-dit-small", "ds-diff-hybrid-small"])
def test_other_backbone_has_the_process_and_loss_of_ds_diff(recipe):
    config, original = load_config(recipe), load_config("ds-diff")
    for block in ("process", "sampler", "loss"):
        assert getattr(config, block) == getattr(original, block)
