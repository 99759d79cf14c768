import subprocess
import sys

import pytest
import yaml

from dsdiff.config.import_config import import_config
from dsdiff.config.run import dump_config, load_config
from dsdiff.errors import ConfigError
from tests.toy_data import run_command

LATENT_DIFFUSION_CONFIG = """
model:
  base_learning_rate: 1.0e-4
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    parameterization: v
    beta_schedule: linear
    linear_start: 1.0e-4
    linear_end: 0.02
    timesteps: 2000
    loss_type: l2
    use_ema: false
    conditioning_key: concat
    learn_logvar: false
    first_stage_config: {target: os.system, params: {command: touch never}}
    ckpt_path: model.ckpt
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: 32
        in_channels: 4
        out_channels: 1
        model_channels: 96
        channel_mult: [1, 1, 2, 2, 3, 3]
        num_res_blocks: 2
        attention_resolutions: [32, 16, 8]
        num_head_channels: 48
        num_heads: -1
        num_classes: null
        legacy: false
data:
  target: main.DataModuleFromConfig
  params: {batch_size: 16, train: {target: ldm.data.brats.Train}}
lightning:
  trainer: {max_epochs: 200, accumulate_grad_batches: 2}
"""


def write_config(tmp_path, **changes):
    """The config with some values changed; model__params changes the key model.params."""
    values = yaml.safe_load(LATENT_DIFFUSION_CONFIG)
    for name, value in changes.items():
        *parents, key = name.split("__")
        block = values
        for parent in parents:
            block = block[parent]
        block[key] = value
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "old.yaml"


def test_supported_keys_are_converted(tmp_path):
    config = import_config(write_config(tmp_path)).config
    process = config.build_process()
    assert (process.timesteps, process.prediction_type, config.process.params["schedule"]) == (
        2000,
        "v",
        "scaled_linear",
    )
    assert config.backbone.target == "unet"
    assert config.backbone.params["channel_mult"] == [1, 1, 2, 2, 3, 3]
    assert "num_heads" not in config.backbone.params
    assert config.backbone.params["legacy"] is False  # decides whether num_heads_upsample is used
    assert config.backbone.params["in_channels"] == 4
    assert config.build_backbone().multiple > 0
    assert (config.training.lr, config.training.batch_size, config.training.accumulate) == (1e-4, 16, 2)
    assert config.training.ema == (0,)
    assert config.training.steps == 200_000  # 200 epochs
    assert (config.training.warmup, config.training.final_lr) == (0, 1e-7)
    assert config.sampler.target == "ddim"
    (loss,) = config.loss
    assert (loss.target, loss.tumour, loss.enhancing) == ("l2", 1, 1)


def test_unsupported_keys_are_noted_with_the_reason(tmp_path):
    notes = {}
    for note in import_config(write_config(tmp_path)).notes:
        subject, _, text = note.partition(": ")
        notes[subject.split(" (")[0]] = text
    assert set(notes) == {
        "model.target",
        "model.base_learning_rate",
        "model.params.beta_schedule",
        "model.params.first_stage_config",
        "model.params.ckpt_path",
        "model.params.unet_config.params.image_size",
        "data.target",
        "data.params.train",
        "lightning.trainer.max_epochs",
        "sampling",
        "intensities",
        "background",
        "gradients",
    }
    assert "no autoencoder" in notes["model.params.first_stage_config"]
    assert "linear in the square root" in notes["model.params.beta_schedule"]


def test_cosine_schedule_has_no_beta_range(tmp_path):
    imported = import_config(
        write_config(tmp_path, model__params__beta_schedule="cosine", model__params__parameterization="x0")
    )
    assert imported.config.process.params == {"schedule": "cosine", "timesteps": 2000, "prediction": "x_0"}
    assert any(note.startswith("model.params.linear_start (0.0001)") for note in imported.notes)


UNET = "model__params__unet_config__params"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model__params__parameterization": "mu"}, "parameterization is 'mu'; dsdiff knows eps, x0, v"),
        ({"model__params__beta_schedule": "sqrt"}, "beta_schedule is 'sqrt'"),
        ({"model__params__beta_schedule": ["linear"]}, "beta_schedule is"),
        ({"model__params__loss_type": "vlb"}, "loss_type is 'vlb'"),
        ({"model__params__unet_config": {"target": "os.system"}}, r"'os\.system' is unknown"),
        ({"model__params__unet_config": {"target": {"a": 1}}}, "must name a class"),
        ({f"{UNET}__model_channels": 7}, "model_channels"),
        ({"model__params": {}}, "of no family that dsdiff imports"),
        ({"model": 3}, "of no family that dsdiff imports"),
        ({"model__params__timesteps": "many"}, "timesteps is many; it must be a number"),
        ({"model__params__timesteps": 10.5}, "timesteps is 10.5; it must be an integer"),
        ({"model__params__linear_start": "low"}, "linear_start is low"),
        ({"lightning__trainer": {"max_epochs": "all"}}, "max_epochs is all"),
    ],
)
def test_invalid_values_raise(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message) as error:
        import_config(write_config(tmp_path, **change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{UNET}__dims": 3}, r"dims \(3\): the networks of dsdiff are 2-D"),
        ({f"{UNET}__use_spatial_transformer": True}, r"use_spatial_transformer \(True\).*such as text"),
        ({f"{UNET}__num_classes": 1000}, r"num_classes \(1000\)"),
        ({f"{UNET}__num_attention_blocks": [1, 0]}, "num_attention_blocks"),
        ({f"{UNET}__n_embed": 8192}, "codebook"),
        ({f"{UNET}__out_channels": 4}, r"out_channels \(4\): the network returns latents"),
        ({f"{UNET}__in_channels": 1}, r"in_channels \(1\): the network takes no condition"),
        ({f"{UNET}__window_size": 8}, r"window_size \(8\): the unet of dsdiff has no such parameter"),
        ({"model__params__conditioning_key": "crossattn"}, r"conditioning_key \(crossattn\).*text"),
        ({"model__params__conditioning_key": ["concat"]}, "conditioning_key"),
        ({"model__params__channels": 4}, r"channels \(4\): diffusion works on latents"),
        ({"model__params__given_betas": [0.1]}, "given_betas"),
    ],
)
def test_what_would_change_the_network_is_refused(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message) as error:
        import_config(write_config(tmp_path, **change))
    assert "\n" not in str(error.value)


def test_all_reasons_of_a_refusal_are_listed(tmp_path):
    path = write_config(tmp_path, **{f"{UNET}__dims": 3, f"{UNET}__num_classes": 10, f"{UNET}__out_channels": 4})
    with pytest.raises(ConfigError, match=r"out_channels \(4\).*dims \(3\).*num_classes \(10\)"):
        import_config(path)


def test_fewer_input_channels_are_fewer_contrasts(tmp_path):
    imported = import_config(write_config(tmp_path, **{f"{UNET}__in_channels": 3}))
    assert imported.config.data.contrasts == ("t1", "t2")
    assert any("put yours in data.contrasts" in note for note in imported.notes)
    imported.config.build_backbone()


def test_reference_dit_has_its_default_size_and_no_variance(tmp_path):
    target = {"target": "ldm.modules.diffusionmodules.dit.DiT", "params": {"input_size": 64, "learn_sigma": True}}
    imported = import_config(write_config(tmp_path, model__params__unet_config=target))
    params = imported.config.backbone.params
    assert (params["depth"], params["hidden_size"], params["patch_size"], params["num_heads"]) == (28, 1152, 2, 16)
    assert params["input_size"] == 64
    assert "learn_sigma" not in params
    assert any(note.startswith("model.params.unet_config.params.learn_sigma") for note in imported.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "is not a config"),
        ("", "no family"),
        ("text", "of no family"),
        ("a: [1", "is not a config"),
        ("backbone: {target: unet}", "is a config of dsdiff already"),
        ("model: {params: {ddconfig: {ch: 128}}}", "describes an autoencoder"),
        ("learning_rate: 1", "of no family"),
    ],
)
def test_other_files_are_answered_in_one_line(tmp_path, monkeypatch, capsys, text, message):
    path = tmp_path / "old.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        import_config(path)
    assert run_command(monkeypatch, "import-config", path) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_command_writes_a_loadable_config(tmp_path, monkeypatch, capsys):
    old, new = write_config(tmp_path), tmp_path / "new" / "run.yaml"
    assert run_command(monkeypatch, "import-config", old) == 0
    out, err = capsys.readouterr()
    assert yaml.safe_load(out) == yaml.safe_load(dump_config(import_config(old).config))
    assert "model.params.ckpt_path (model.ckpt): a config holds no weights" in err
    assert run_command(monkeypatch, "import-config", old, "-o", new) == 0
    assert new.read_text() == out
    assert "#   model.params.ckpt_path (model.ckpt)" in out
    assert load_config(new) == import_config(old).config
    assert run_command(monkeypatch, "import-config", old, "-o", new) == 2
    assert "exists already" in capsys.readouterr().err


def test_classes_named_in_the_file_are_not_imported(tmp_path):
    path = write_config(tmp_path, model__target="antigravity.Fly", data__target="this.module")
    code = f"""
import sys
from pathlib import Path
from dsdiff.config.import_config import import_config
import_config(Path({str(path)!r}))
print({{'antigravity', 'this', 'ldm'}} & set(sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
