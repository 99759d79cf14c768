"""Training that starts from a model folder: which weights are matched, and which folders are rejected."""

import pytest
import torch

from dsdiff.config.run import dump_config, parse_config, strip_local_paths
from dsdiff.errors import ConfigError
from dsdiff.io import splits
from dsdiff.model import checkpoint
from dsdiff.model.metadata import ModelMetadata
from dsdiff.training import loop
from dsdiff.training.trainer import Trainer
from tests.toy_data import TINY_CONFIG, randomize_zeros, write_case

CPU = torch.device("cpu")
DIT = {"target": "dit", "params": {"hidden_size": 32, "depth": 1, "num_heads": 2, "image_size": [32, 48]}}
STREAMS = {"target": "disc_unet", "params": TINY_CONFIG["backbone"]["params"]}


def config(backbone=TINY_CONFIG["backbone"], conditioning=None, folder=None, **data):
    training = {**TINY_CONFIG["training"], "init_from": None if folder is None else str(folder)}
    values = {**TINY_CONFIG, "backbone": backbone, "conditioning": conditioning or {}, "training": training}
    return parse_config({**values, "data": {**TINY_CONFIG["data"], **data}}, "test")


def save_model(settings, folder):
    torch.manual_seed(0)
    network = settings.build_network()
    randomize_zeros(network)
    text = dump_config(strip_local_paths(settings))
    checkpoint.save_model(folder, network.state_dict(), text, "", ModelMetadata(), torch.float32)
    return network.eval()


def predict(network, settings, images):
    """Output of a network for slices by contrast, (b, 5, h, w) each; it reads its context slices from the middle."""
    n_neighbors = settings.data.context_slices // 2
    context = slice(2 - n_neighbors, 3 + n_neighbors)
    sources = torch.stack([images[name][:, context] for name in settings.data.contrasts], 1)
    present = torch.ones(sources.shape[:2], dtype=torch.bool)
    with torch.no_grad():
        cond = network.condition(sources, present)
        return network(images["x_t"], torch.tensor([300.0, 700.0]), cond).value


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    contrasts = {name: torch.randn(2, 5, 32, 48, generator=generator) for name in ("t1", "t2", "flair", "dwi")}
    return {**contrasts, "x_t": torch.randn(2, 1, 32, 48, generator=generator)}


def start_and_predict(settings, images):
    """Output of a new network right after it started from `training.init_from`."""
    return predict(Trainer(settings, CPU).network.eval(), settings, images)


def test_the_predicted_error_can_be_added(tmp_path, images):
    old = config()
    old_output = predict(save_model(old, tmp_path / "old"), old, images)
    two_channels = {**TINY_CONFIG["backbone"], "params": {**TINY_CONFIG["backbone"]["params"], "out_channels": 2}}
    values = config(two_channels, None, tmp_path / "old").model_dump(mode="json")
    new = parse_config({**values, "process": {"target": "bridge", "params": {"predict_error": True}}}, "test")
    output = start_and_predict(new, images)
    assert torch.allclose(output[:, :1], old_output, atol=1e-5)
    assert (output[:, 1:] == 0).all()  # a predicted error of 1 everywhere


@pytest.mark.parametrize(
    ("backbone", "conditioning"),
    [
        (TINY_CONFIG["backbone"], {}),
        (DIT, {}),
        (TINY_CONFIG["backbone"], {"fusion": "spade"}),
        (DIT, {"fusion": "spade"}),
    ],
)
def test_new_contrasts_and_more_context_slices_keep_the_output(tmp_path, images, backbone, conditioning):
    old = config(backbone, conditioning)
    old_output = predict(save_model(old, tmp_path / "old"), old, images)
    new = config(backbone, conditioning, tmp_path / "old", contrasts=("flair", "dwi", "t1", "t2"), context_slices=5)
    trainer = Trainer(new, CPU)
    output = predict(trainer.network.eval(), new, images)
    assert torch.allclose(output, old_output, atol=1e-5)

    average = trainer.averages[0].weights
    assert all(torch.equal(average[name], tensor) for name, tensor in trainer.network.state_dict().items())
    other_images = {**images, "dwi": images["dwi"] + 1}
    assert torch.equal(predict(trainer.network, new, other_images), output)


@pytest.mark.parametrize("options", [{}, {"fusion": "spade"}, {"fusion": "spade", "style": "curves"}])
def test_an_encoder_can_read_more_context_slices(tmp_path, images, options):
    conditioning = {"encoder": "shared", **options}
    old = config(conditioning=conditioning)
    old_output = predict(save_model(old, tmp_path / "old"), old, images)
    new = config(conditioning=conditioning, folder=tmp_path / "old", context_slices=5)
    assert torch.allclose(start_and_predict(new, images), old_output, atol=1e-5)


def test_new_guidance_starts_at_zero(tmp_path, images):
    old = config()
    old_output = predict(save_model(old, tmp_path / "old"), old, images)
    new = config(conditioning={"encoder": "shared", "style": "linear"}, folder=tmp_path / "old")
    assert torch.allclose(start_and_predict(new, images), old_output, atol=1e-5)


def test_changed_guidance_starts_at_zero(tmp_path, images):
    save_model(config(conditioning={"edges": "sobel", "encoder": "shared"}), tmp_path / "old")

    def predict_with(**conditioning):
        return start_and_predict(config(conditioning=conditioning, folder=tmp_path / "old"), images)

    unguided_output = predict_with(edges="none", encoder="none")
    assert torch.allclose(predict_with(edges="canny", encoder="per_contrast"), unguided_output, atol=1e-5)
    assert not torch.allclose(predict_with(edges="sobel", encoder="none"), unguided_output, atol=1e-2)


def test_streams_keep_their_contrasts_and_can_read_more_context_slices(tmp_path, images):
    old = config(STREAMS)
    old_output = predict(save_model(old, tmp_path / "old"), old, images)
    wider = config(STREAMS, folder=tmp_path / "old", context_slices=5)
    assert torch.allclose(start_and_predict(wider, images), old_output, atol=1e-5)
    guided = config(STREAMS, {"edges": "sobel", "fusion": "spade"}, tmp_path / "old")
    assert torch.allclose(start_and_predict(guided, images), old_output, atol=1e-5)
    with pytest.raises(
        ConfigError, match="was trained on t1, t2, flair, but this run reads t1, t2; a network that enc"
    ):
        Trainer(config(STREAMS, folder=tmp_path / "old", contrasts=("t1", "t2")), CPU)


def test_leakage_of_held_out_patients_is_rejected(tmp_path, caplog):
    names = [f"P{number}" for number in range(6)]
    for seed, name in enumerate(names):
        write_case(tmp_path / "patients", name, seed)
    for seed in (0, 1):
        splits.write(splits.make(names, 3, seed), tmp_path / f"split{seed}.json")

    def train(run_name, split, fold, init_from=None):
        data = {"root": str(tmp_path / "patients"), "split": str(tmp_path / f"split{split}.json"), "fold": fold}
        settings = config(TINY_CONFIG["backbone"], None, init_from, **data)
        settings = settings.model_copy(update={"training": settings.training.model_copy(update={"steps": 1})})
        return loop.train(settings, tmp_path / run_name, CPU)

    first = train("first", split=0, fold=0)
    train("same fold", split=0, fold=0, init_from=first)
    assert "cannot verify" not in caplog.text
    for run_name, split, fold in (("other fold", 0, 1), ("other split", 1, 0)):
        with pytest.raises(ConfigError, match="was trained on held-out patients: P"):
            train(run_name, split, fold, first)
        assert not (tmp_path / run_name / "model").exists()

    contents = checkpoint.read_model(first)
    metadata = contents.metadata.model_copy(update={"training_index": None})
    checkpoint.save_model(first, contents.weights, contents.config, "", metadata)
    second = train("unverified", split=1, fold=0, init_from=first)
    assert "cannot verify that training.init_from" in caplog.text
    with pytest.raises(ConfigError, match=r"\(or a model that it started from\) was trained on held-out patients"):
        train("grandchild", split=0, fold=1, init_from=second)


def test_another_network_is_rejected(tmp_path):
    save_model(config(), tmp_path / "old")
    with pytest.raises(ConfigError, match=r"does not match this run's; \d+ of \d+ weights, such as backbone\."):
        Trainer(config(DIT, folder=tmp_path / "old"), CPU)
