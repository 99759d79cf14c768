"""Every process with every prediction and sampler: what goes together trains and synthesises, the rest is refused."""

from itertools import product

import numpy as np
import pytest
import torch

from dsdiff.config import run as configs
from dsdiff.data import dataset
from dsdiff.diffusion.registry import PROCESSES, SAMPLERS
from dsdiff.errors import ConfigError
from dsdiff.inference.denoise import predict
from dsdiff.inference.model import Model
from dsdiff.inference.options import plan
from dsdiff.inference.pipeline import run
from dsdiff.io import cases
from dsdiff.schema import TargetConfig
from dsdiff.training import loop
from dsdiff.volume import Volume
from tests.toy_data import LPS, TINY, patient, wake, write_case

CPU = torch.device("cpu")
PREDICTIONS = {"ddpm": ("eps", "v", "x_0")}
PAIRS = [
    (process, prediction, sampler)
    for process in PROCESSES
    for prediction, sampler in product(PREDICTIONS.get(process, (None,)), SAMPLERS)
]
LEGAL = [pair for pair in PAIRS if pair[2] in PROCESSES[pair[0]].samplers]
ILLEGAL = [pair for pair in PAIRS if pair not in LEGAL]


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    (case,) = cases.discover(write_case(tmp_path_factory.mktemp("cohort"), "P0"))
    return [dataset.load(case, ("t1", "t2", "flair"), "t1ce")]


@pytest.fixture(scope="module")
def volumes():
    return {name: Volume(array[..., 10:14], LPS) for name, array in patient().items() if name in ("t1", "t2", "flair")}


def config(process, prediction=None, sampler=None, **params):
    params |= {"prediction": prediction} if prediction else {}
    chosen = {"sampler": {"target": sampler}} if sampler else {}
    values = {**TINY, **chosen, "process": {"target": process, "params": params}}
    return configs.parse({**values, "loss": [{"target": "l2"}, {"target": "ssim", "weight": 0.1}]}, "test")


def model_of(trainer):
    made = trainer.config
    return Model("tiny", "0", made, trainer.network.eval(), trainer.process, made.build_sampler(), CPU)


def test_the_legal_pairs_are_those_of_the_documentation():
    assert {process: PROCESSES[process].samplers for process in PROCESSES} == {
        "bridge": ("bridge",),
        "ddpm": ("ddim", "dpmpp_2m", "ancestral"),
        "flow": ("euler", "heun"),
        "regression": ("one_step",),
    }
    assert (len(LEGAL), len(ILLEGAL)) == (13, 29)


@pytest.mark.parametrize(("process", "prediction", "sampler"), LEGAL)
def test_what_goes_together_trains_and_synthesises(process, prediction, sampler, patients, volumes):
    trainer = loop.Trainer(config(process, prediction, sampler), CPU)
    before = [parameter.clone() for parameter in trainer.network.parameters()]
    for step in range(2):
        batch = loop.draws(trainer.config, dataset.Cohort(patients)).at(step)
        assert np.isfinite(trainer.train_step(batch, torch.Generator().manual_seed(step)))
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.network.parameters(), strict=True))
    wake(trainer.network)
    model = model_of(trainer)
    steps = None if process == "regression" else 3
    first, again, other = (run(volumes, model, plan(model, steps=steps, seed=seed)) for seed in (1, 1, 2))
    assert np.isfinite(first.z).all()
    assert np.array_equal(first.z, again.z)
    assert np.array_equal(first.z, other.z) == (not model.process.varies(first.sampling.steps))


@pytest.mark.parametrize(("process", "prediction", "sampler"), ILLEGAL)
def test_what_does_not_is_refused_with_a_reason(process, prediction, sampler):
    with pytest.raises(
        ConfigError, match=f"'{sampler}' needs .*, which process '{process}' does not have; with '{process}' go: "
    ):
        config(process, prediction, sampler)


@pytest.mark.parametrize(
    ("process", "one", "several"), [("bridge", 1, 4), ("regression", 1, 1), ("ddpm", 20, 20), ("flow", 20, 20)]
)
def test_usual_steps(process, one, several):
    model = model_of(loop.Trainer(config(process), CPU))
    assert plan(model).steps == one
    if process == "regression":
        with pytest.raises(ConfigError, match=r"--steps 1 of process 'regression' is deterministic.*take --samples 1"):
            plan(model, samples=2)
        with pytest.raises(ConfigError, match="one step alone, not 4"):
            plan(model, steps=4)
    else:
        assert plan(model, samples=2).steps == several
    if model.process.from_noise:
        assert plan(model, steps=1, samples=2).steps == 1


def test_steps_of_the_command_then_of_the_config_then_of_the_process():
    given = config("bridge").model_copy(update={"sampler": TargetConfig(target="bridge", params={"steps": 7})})
    model = model_of(loop.Trainer(given, CPU))
    assert [plan(model, **asked).steps for asked in ({}, {"samples": 2}, {"steps": 3})] == [7, 7, 3]
    still = model_of(loop.Trainer(config("bridge", sigma=0.0), CPU))
    with pytest.raises(ConfigError, match=r"--steps 4 of process 'bridge' is deterministic.*take --samples 1"):
        plan(still, samples=2)


def test_the_noise_of_a_slice_is_its_own(volumes):
    """A slice alone is what it is in a batch, and a sample is what it is among others."""
    from dsdiff.preprocessing import normalize, slices

    trainer = loop.Trainer(config("ddpm", "v", "ancestral"), CPU)
    wake(trainer.network)
    model = model_of(trainer)
    (batch,) = slices.batches(normalize.apply(volumes, "t1"), model.contrasts, 3, 48, 4)
    alone = slices.SliceBatch(batch.boxes[1:2], batch.sources[1:2], batch.brain[1:2])
    together = predict(model, batch, plan(model, steps=2, samples=2)).samples
    assert np.allclose(
        predict(model, alone, plan(model, steps=2)).samples[0, 0], together[0, 1], atol=0.02
    )  # bf16 may round otherwise
    assert not np.allclose(together[0], together[1], atol=0.1)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"sampler": {"target": "plms"}}, "sampler 'plms' is unknown; there are: one_step, bridge"),
        ({"sampler": {"target": "bridge", "params": {"eta": 1}}}, "sampler.params of 'bridge': eta"),
        ({"sampler": {"target": "bridge", "params": {"steps": 0}}}, "steps: Input should be greater"),
        ({"sampler": {"target": "bridge", "params": {"spacing": "leading"}}}, "'leading' does not visit time 1"),
        ({"process": {"target": "ddpm"}, "sampler": {"target": "ddim", "params": {"steps": 1001}}}, "1001 steps are more"),
        ({"process": {"target": "ddpm"}, "sampler": {"target": "ddim", "params": {"steps": 1, "spacing": "leading"}}}, "visits step 0 alone"),
        ({"process": {"target": "ddpm", "params": {"schedule": "cosine", "beta_start": 0.1}}}, "'cosine' has no beta_start"),
        ({"process": {"target": "ddpm", "params": {"linear_start": 0.1}}}, "beta_start 0.1 is above beta_end 0.02"),
        ({"process": {"target": "ddpm", "params": {"beta_start": 1e-4, "linear_start": 1e-3}}}, "linear_start"),
        ({"process": {"target": "ddpm", "params": {"prediction": "x0"}}}, "prediction"),
        ({"process": {"target": "ddpm", "params": {"train_steps": 10}}, "sampler": {"target": "ddim", "params": {"steps": 20}}}, "train_steps is 10.* would take 20 steps"),
        ({"process": {"target": "flow", "params": {"train_steps": 4}}, "sampler": {"target": "euler", "params": {"spacing": "linspace"}}}, "of spacing 'linspace'"),
        ({"process": {"target": "regression", "params": {"sigma": 1}}}, "process.params of 'regression': sigma"),
        ({"process": {"target": "regression"}, "sampler": {"target": "one_step", "params": {"steps": 2}}}, "steps"),
    ],
)  # fmt: skip
def test_mistakes_are_named(values, says):
    with pytest.raises(ConfigError, match=says):
        configs.parse(values, "test")


@pytest.mark.parametrize(
    "backbone", [{"target": "unet", "params": {"out_channels": 2}}, {"target": "dit", "params": {"learn_sigma": True}}]
)
def test_channels_that_no_process_takes_are_refused(backbone):
    with pytest.raises(ConfigError, match=r"gives 2 channels, process 'bridge' takes 1"):
        configs.parse({"backbone": backbone}, "test").build_backbone()


@pytest.mark.parametrize(("process", "samplers"), [("ddpm", "ddim"), ("flow", "euler"), ("bridge", "bridge")])
def test_training_on_the_steps_of_sampling_alone(process, samplers):
    made = config(process, sampler=samplers, train_steps=5)
    chosen, generator = made.build_process(), torch.Generator().manual_seed(0)
    visited = torch.tensor(chosen.times(5, "trailing")[:-1])
    assert set(chosen.draw_times(500, generator).tolist()) == set(visited.tolist())
    assert chosen.usual_steps(1) == 5


@pytest.mark.parametrize(
    ("process", "low", "high"), [("ddpm", 1 / 1000, 1.0), ("flow", 0.0, 1.0), ("regression", 1.0, 1.0)]
)
def test_times_of_training_span_the_process(process, low, high):
    made = config(process).build_process()
    drawn = made.draw_times(20000, torch.Generator().manual_seed(0))
    assert drawn.min().item() == pytest.approx(low, abs=1e-3)
    assert drawn.max().item() == pytest.approx(high, abs=1e-3)
    assert drawn.mean().item() == pytest.approx((low + high) / 2, abs=0.01)
    told = made.timestep(drawn)
    assert (told.min().item() >= 0, told.max().item() <= (999 if process == "ddpm" else 1000)) == (True, True)
