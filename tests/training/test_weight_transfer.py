"""Training that begins with a model folder: what is matched by name, and what is refused."""

import io

import pytest
import torch
from rich.console import Console

from dsdiff.config import run as configs
from dsdiff.data import splits
from dsdiff.errors import ConfigError
from dsdiff.model import checkpoint
from dsdiff.training import loop
from dsdiff.training.trainer import Trainer
from tests.toy_data import TINY, wake, write_case

CPU = torch.device("cpu")
DIT = {"target": "dit", "params": {"hidden_size": 32, "depth": 1, "num_heads": 2, "image_size": [32, 48]}}
STREAMS = {"target": "disc_unet", "params": TINY["backbone"]["params"]}


def config(backbone=TINY["backbone"], conditioning=None, folder=None, **data):
    training = {**TINY["training"], "init_from": None if folder is None else str(folder)}
    values = {**TINY, "backbone": backbone, "conditioning": conditioning or {}, "training": training}
    return configs.parse({**values, "data": {**TINY["data"], **data}}, "test")


def model(made, folder):
    torch.manual_seed(0)
    network = made.build_network()
    wake(network)
    checkpoint.save(folder, network.state_dict(), configs.dump(configs.portable(made)), "", {}, torch.float32)
    return network.eval()


def output(network, made, images):
    """What a network makes of slices that are given by contrast: (b, 5, h, w) each, of which it takes its slab."""
    middle, reach = slice(2 - made.data.context_slices // 2, 3 + made.data.context_slices // 2), made.data.contrasts
    sources = torch.stack([images[name][:, middle] for name in reach], 1)
    present = torch.ones(sources.shape[:2], dtype=torch.bool)
    with torch.no_grad():
        cond = network.condition(sources, present)
        return network(images["x_t"], torch.tensor([300.0, 700.0]), cond).value


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    drawn = {name: torch.randn(2, 5, 32, 48, generator=generator) for name in ("t1", "t2", "flair", "dwi")}
    return {**drawn, "x_t": torch.randn(2, 1, 32, 48, generator=generator)}


def test_a_network_may_be_asked_for_its_error_later(tmp_path, images):
    old = config()
    before = output(model(old, tmp_path / "old"), old, images)
    asked = {**TINY["backbone"], "params": {**TINY["backbone"]["params"], "out_channels": 2}}
    values = config(asked, None, tmp_path / "old").model_dump(mode="json")
    new = configs.parse({**values, "process": {"target": "bridge", "params": {"predict_error": True}}}, "test")
    after = output(Trainer(new, CPU).network.eval(), new, images)
    assert torch.allclose(after[:, :1], before, atol=1e-5)
    assert (after[:, 1:] == 0).all()  # an expected error of 1 everywhere


@pytest.mark.parametrize(
    ("backbone", "conditioning"),
    [(TINY["backbone"], {}), (DIT, {}), (TINY["backbone"], {"fusion": "spade"}), (DIT, {"fusion": "spade"})],
)
def test_new_contrasts_and_a_wider_slab_change_nothing_at_first(tmp_path, images, backbone, conditioning):
    old = config(backbone, conditioning)
    before = output(model(old, tmp_path / "old"), old, images)
    new = config(backbone, conditioning, tmp_path / "old", contrasts=("flair", "dwi", "t1", "t2"), context_slices=5)
    trainer = Trainer(new, CPU)
    assert torch.allclose(output(trainer.network.eval(), new, images), before, atol=1e-5)
    average = trainer.averages[0].weights
    assert all(torch.equal(average[name], value) for name, value in trainer.network.state_dict().items())
    sources = {**images, "dwi": images["dwi"] + 1}
    assert torch.equal(output(trainer.network, new, sources), output(trainer.network, new, images))


@pytest.mark.parametrize("told", [{}, {"fusion": "spade"}, {"fusion": "spade", "style": "curves"}])
def test_an_encoder_of_contrasts_widens_its_slab(tmp_path, images, told):
    conditioning = {"encoder": "shared", **told}
    old = config(conditioning=conditioning)
    before = output(model(old, tmp_path / "old"), old, images)
    new = config(conditioning=conditioning, folder=tmp_path / "old", context_slices=5)
    assert torch.allclose(output(Trainer(new, CPU).network.eval(), new, images), before, atol=1e-5)


def test_what_is_told_besides_begins_at_zero_too(tmp_path, images):
    old = config()
    before = output(model(old, tmp_path / "old"), old, images)
    new = config(conditioning={"encoder": "shared", "style": "linear"}, folder=tmp_path / "old")
    assert torch.allclose(output(Trainer(new, CPU).network.eval(), new, images), before, atol=1e-5)


def test_what_is_told_otherwise_than_before_begins_at_zero(tmp_path, images):
    folder = tmp_path / "old"
    model(config(conditioning={"edges": "sobel", "encoder": "shared"}), folder)

    def begun(**conditioning):
        new = config(conditioning=conditioning, folder=folder)
        return output(Trainer(new, CPU).network.eval(), new, images)

    without = begun(edges="none", encoder="none")
    assert torch.allclose(begun(edges="canny", encoder="per_contrast"), without, atol=1e-5)
    assert not torch.allclose(begun(edges="sobel", encoder="none"), without, atol=1e-2)


def test_streams_keep_their_contrasts_and_widen_their_slab(tmp_path, images):
    old = config(STREAMS)
    before = output(model(old, tmp_path / "old"), old, images)
    new = config(STREAMS, folder=tmp_path / "old", context_slices=5)
    assert torch.allclose(output(Trainer(new, CPU).network.eval(), new, images), before, atol=1e-5)
    injected = config(STREAMS, {"edges": "sobel", "fusion": "spade"}, tmp_path / "old")
    assert torch.allclose(output(Trainer(injected, CPU).network.eval(), injected, images), before, atol=1e-5)
    with pytest.raises(ConfigError, match="was trained on t1, t2, flair, this run reads t1, t2: a network with an enc"):
        Trainer(config(STREAMS, folder=tmp_path / "old", contrasts=("t1", "t2")), CPU)


def test_a_model_that_has_seen_the_held_out_patients_is_refused(tmp_path):
    names = [f"P{i}" for i in range(6)]
    for i, name in enumerate(names):
        write_case(tmp_path / "patients", name, i)
    for seed in (0, 1):
        splits.write(splits.make(names, 3, seed), tmp_path / f"split{seed}.json")
    console = Console(file=io.StringIO())

    def trained(name, split, fold, folder=None):
        data = {"root": str(tmp_path / "patients"), "split": str(tmp_path / f"split{split}.json"), "fold": fold}
        made = config(TINY["backbone"], None, folder, **data)
        made = made.model_copy(update={"training": made.training.model_copy(update={"steps": 1})})
        return loop.train(made, tmp_path / name, CPU, console)

    first = trained("first", 0, 0)
    trained("same", 0, 0, first)
    assert "nobody can tell" not in console.file.getvalue()
    with pytest.raises(ConfigError, match="was trained on patients whom this run holds out: P"):
        trained("seen", 0, 1, first)
    assert not (tmp_path / "seen" / "model").exists()
    with pytest.raises(ConfigError, match="was trained on patients whom this run holds out: P"):
        trained("seen by what they measure", 1, 0, first)
    held = checkpoint.read(first)
    facts = {name: fact for name, fact in held.facts.items() if name != "known"}  # as before models knew
    checkpoint.save(first, held.weights, held.config, "", facts)
    second = trained("unknown", 1, 0, first)
    assert "nobody can tell whether training.init_from" in console.file.getvalue().replace("\n", " ")
    with pytest.raises(ConfigError, match=r"\(or what it began with\) was trained on patients"):
        trained("grandchild", 0, 1, second)


def test_another_network_is_refused(tmp_path):
    model(config(), tmp_path / "old")
    with pytest.raises(ConfigError, match=r"its network is another one \(\d+ of \d+ weights, as backbone\."):
        Trainer(config(DIT, folder=tmp_path / "old"), CPU)
