import subprocess
import sys

import pytest
import yaml

from dsdiff.config import latent_diffusion
from dsdiff.config import run as configs
from dsdiff.errors import ConfigError
from tests.toy_data import command

OLD = """
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


def written(tmp_path, text=OLD, **changes):
    values = yaml.safe_load(text)
    for key, value in changes.items():
        *nests, last = key.split("__")
        place = values
        for nest in nests:
            place = place[nest]
        place[last] = value
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "old.yaml"


def test_what_can_be_honoured_is(tmp_path):
    config = latent_diffusion.load(written(tmp_path)).config
    process = config.build_process()
    assert (process.timesteps, process.prediction, config.process.params["schedule"]) == (2000, "v", "scaled_linear")
    assert config.backbone.target == "unet"
    assert config.backbone.params["channel_mult"] == [1, 1, 2, 2, 3, 3]
    assert "num_heads" not in config.backbone.params
    assert config.backbone.params["legacy"] is False  # whether num_heads_upsample counts
    assert config.backbone.params["in_channels"] == 4
    assert config.build_backbone().multiple > 0
    assert (config.training.lr, config.training.batch_size, config.training.accumulate) == (1e-4, 16, 2)
    assert config.training.ema == (0,)
    (loss,) = config.loss
    assert (loss.target, loss.tumour, loss.enhancing) == ("l2", 1, 1)


def test_what_cannot_is_named_with_the_reason(tmp_path):
    notes = dict(note.split(" (", 1) for note in latent_diffusion.load(written(tmp_path)).notes)
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
    }
    assert "no autoencoder" in notes["model.params.first_stage_config"]
    assert "linear in the square root" in notes["model.params.beta_schedule"]


def test_cosine_has_no_ends_to_take_over(tmp_path):
    imported = latent_diffusion.load(
        written(tmp_path, model__params__beta_schedule="cosine", model__params__parameterization="x0")
    )
    assert imported.config.process.params == {"schedule": "cosine", "timesteps": 2000, "prediction": "x_0"}
    assert any(note.startswith("model.params.linear_start (0.0001)") for note in imported.notes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model__params__parameterization": "mu"}, "parameterization is 'mu'; dsdiff knows eps, x0, v"),
        ({"model__params__beta_schedule": "sqrt"}, "beta_schedule is 'sqrt'"),
        ({"model__params__loss_type": "vlb"}, "loss_type is 'vlb'"),
        ({"model__params__unet_config": {"target": "os.system"}}, r"'os\.system' is unknown"),
        ({"model__params__unet_config__params__model_channels": 7}, "model_channels"),
        ({"model__params": {}}, "not a latent-diffusion config"),
        ({"model__params__timesteps": "many"}, "timesteps"),
    ],
)
def test_what_dsdiff_lacks_is_refused(tmp_path, change, says):
    with pytest.raises(ConfigError, match=says):
        latent_diffusion.load(written(tmp_path, **change))


def test_the_command_writes_what_loads(tmp_path, monkeypatch, capsys):
    old, new = written(tmp_path), tmp_path / "new" / "run.yaml"
    assert command(monkeypatch, "import-config", old) == 0
    out, err = capsys.readouterr()
    assert yaml.safe_load(out) == yaml.safe_load(configs.dump(latent_diffusion.load(old).config))
    assert "model.params.ckpt_path (model.ckpt): weights are not taken over" in err
    assert command(monkeypatch, "import-config", old, "-o", new) == 0
    assert new.read_text() == out
    assert "#   model.params.ckpt_path (model.ckpt)" in out
    assert configs.load(new) == latent_diffusion.load(old).config
    assert command(monkeypatch, "import-config", old, "-o", new) == 2
    assert "exists already" in capsys.readouterr().err


def test_nothing_that_a_file_names_is_imported(tmp_path):
    path = written(tmp_path, model__target="antigravity.Fly", data__target="this.module")
    code = f"import sys\nfrom pathlib import Path\nfrom dsdiff import legacy\nlegacy.load(Path({str(path)!r}))\nprint({{'antigravity', 'this', 'ldm'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
