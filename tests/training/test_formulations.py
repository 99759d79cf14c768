"""Every process with every prediction and sampler: legal combinations train and synthesize, others are rejected."""

from itertools import product

import numpy as np
import pytest
import torch

from dsdiff.config.run import parse_config
from dsdiff.data import assemble_cohort, preparation
from dsdiff.diffusion.registry import PROCESSES, SAMPLERS
from dsdiff.errors import ConfigError
from dsdiff.inference.denoise import sample_slices
from dsdiff.inference.model import Model
from dsdiff.inference.options import SynthesisOptions, plan_sampling
from dsdiff.inference.pipeline import Pipeline
from dsdiff.io.cases import discover_cases
from dsdiff.preprocessing import normalize, slices
from dsdiff.schema import TargetConfig
from dsdiff.training import loop
from dsdiff.volume import Volume
from tests.toy_data import LPS_AFFINE, TINY_CONFIG, make_patient, randomize_zeros, write_case

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
    (case,) = discover_cases(write_case(tmp_path_factory.mktemp("cohort"), "P0"))
    return [preparation.load_patient(case, ("t1", "t2", "flair"), "t1ce")]


@pytest.fixture(scope="module")
def volumes():
    images = make_patient()
    return {name: Volume(images[name][..., 10:14], LPS_AFFINE) for name in ("t1", "t2", "flair")}


def config(process, prediction=None, sampler=None, **params):
    params |= {"prediction": prediction} if prediction else {}
    sampler_values = {"sampler": {"target": sampler}} if sampler else {}
    values = {**TINY_CONFIG, **sampler_values, "process": {"target": process, "params": params}}
    return parse_config({**values, "loss": [{"target": "l2"}, {"target": "ssim", "weight": 0.1}]}, "test")


def make_model(trainer):
    sampler = trainer.config.build_sampler()
    return Model("tiny", "0", trainer.config, trainer.network.eval(), trainer.process, sampler, CPU)


def test_the_legal_pairs_are_documented():
    assert {process: PROCESSES[process].samplers for process in PROCESSES} == {
        "bridge": ("bridge",),
        "ddpm": ("ddim", "dpmpp_2m", "ancestral"),
        "flow": ("euler", "heun"),
        "regression": ("one_step",),
    }
    assert (len(LEGAL), len(ILLEGAL)) == (13, 29)


@pytest.mark.parametrize(("process", "prediction", "sampler"), LEGAL)
def test_legal_pairs_train_and_synthesize(process, prediction, sampler, patients, volumes):
    trainer = loop.Trainer(config(process, prediction, sampler), CPU)
    initial_weights = [parameter.clone() for parameter in trainer.network.parameters()]
    batches = loop.training_batches(trainer.config, assemble_cohort.TrainingData(patients))
    for step in range(2):
        assert np.isfinite(trainer.train_step(batches.load_step(step), torch.Generator().manual_seed(step)))
    weights = list(trainer.network.parameters())
    assert not all(map(torch.equal, initial_weights, weights))

    randomize_zeros(trainer.network)
    model = make_model(trainer)
    steps = None if process == "regression" else 3
    result, same_seed, other_seed = (
        Pipeline(model, SynthesisOptions(steps=steps, seed=seed)).synthesize_volumes(volumes) for seed in (1, 1, 2)
    )
    assert np.isfinite(result.z).all()
    assert np.array_equal(result.z, same_seed.z)
    assert np.array_equal(result.z, other_seed.z) == (not model.process.is_stochastic(result.plan.steps))


@pytest.mark.parametrize(("process", "prediction", "sampler"), ILLEGAL)
def test_illegal_pairs_are_rejected_with_a_reason(process, prediction, sampler):
    with pytest.raises(
        ConfigError, match=f"'{sampler}' needs .*, which process '{process}' does not have; samplers for '{process}': "
    ):
        config(process, prediction, sampler)


@pytest.mark.parametrize(
    ("process", "steps", "steps_of_two_samples"),
    [("bridge", 1, 4), ("regression", 1, None), ("ddpm", 20, 20), ("flow", 20, 20)],
)
def test_default_steps(process, steps, steps_of_two_samples):
    model = make_model(loop.Trainer(config(process), CPU))
    assert plan_sampling(model).steps == steps
    if process == "regression":
        with pytest.raises(ConfigError, match=r"--steps 1 of process 'regression' is deterministic.*take --samples 1"):
            plan_sampling(model, SynthesisOptions(samples=2))
        with pytest.raises(ConfigError, match="one step only, not 4"):
            plan_sampling(model, SynthesisOptions(steps=4))
    else:
        assert plan_sampling(model, SynthesisOptions(samples=2)).steps == steps_of_two_samples
    if model.process.from_noise:
        assert plan_sampling(model, SynthesisOptions(steps=1, samples=2)).steps == 1


@pytest.mark.parametrize(("options", "steps"), [({}, 7), ({"samples": 2}, 7), ({"steps": 3}, 3)])
def test_steps_of_the_command_override_those_of_the_config(options, steps):
    settings = config("bridge").model_copy(update={"sampler": TargetConfig(target="bridge", params={"steps": 7})})
    model = make_model(loop.Trainer(settings, CPU))
    assert plan_sampling(model, SynthesisOptions(**options)).steps == steps


def test_several_samples_of_a_bridge_without_noise_are_rejected():
    model = make_model(loop.Trainer(config("bridge", sigma=0.0), CPU))
    with pytest.raises(ConfigError, match=r"--steps 4 of process 'bridge' is deterministic.*take --samples 1"):
        plan_sampling(model, SynthesisOptions(samples=2))


def test_the_noise_of_a_slice_does_not_depend_on_its_batch_or_on_the_number_of_samples(volumes):
    trainer = loop.Trainer(config("ddpm", "v", "ancestral"), CPU)
    randomize_zeros(trainer.network)
    model = make_model(trainer)
    (batch,) = slices.make_batches(normalize.preprocess(volumes, "t1").case, model.contrasts, 3, 48, 4)
    second_slice = slices.SliceBatch(batch.boxes[1:2], batch.sources[1:2], batch.brain[1:2])

    samples = sample_slices(model, batch, plan_sampling(model, SynthesisOptions(steps=2, samples=2))).samples
    one_sample = sample_slices(model, second_slice, plan_sampling(model, SynthesisOptions(steps=2))).samples
    assert np.allclose(one_sample[0, 0], samples[0, 1], atol=0.02)  # bf16 rounds differently
    assert not np.allclose(samples[0], samples[1], atol=0.1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sampler": {"target": "plms"}}, "sampler 'plms' is unknown; there are: one_step, bridge"),
        ({"sampler": {"target": "bridge", "params": {"eta": 1}}}, "sampler.params of 'bridge': eta"),
        ({"sampler": {"target": "bridge", "params": {"steps": 0}}}, "steps: Input should be greater"),
        ({"sampler": {"target": "bridge", "params": {"spacing": "leading"}}}, "'leading' does not visit time 1"),
        ({"process": {"target": "ddpm"}, "sampler": {"target": "ddim", "params": {"steps": 1001}}}, "1001 steps are more"),
        ({"process": {"target": "ddpm"}, "sampler": {"target": "ddim", "params": {"steps": 1, "spacing": "leading"}}}, "visits only step 0"),
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
def test_mistakes_are_reported(values, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(values, "test")


@pytest.mark.parametrize(
    "backbone", [{"target": "unet", "params": {"out_channels": 2}}, {"target": "dit", "params": {"learn_sigma": True}}]
)
def test_output_channels_that_no_process_reads_are_rejected(backbone):
    with pytest.raises(ConfigError, match=r"returns 2 channels, process 'bridge' needs 1"):
        parse_config({"backbone": backbone}, "test").build_backbone()


@pytest.mark.parametrize(("process", "sampler"), [("ddpm", "ddim"), ("flow", "euler"), ("bridge", "bridge")])
def test_training_on_the_times_of_sampling(process, sampler):
    process = config(process, sampler=sampler, train_steps=5).build_process()
    sampling_times = torch.tensor(process.time_grid(5, "trailing")[:-1])
    training_times = process.sample_times(500, torch.Generator().manual_seed(0))
    assert set(training_times.tolist()) == set(sampling_times.tolist())
    assert process.default_steps(1) == 5


@pytest.mark.parametrize(
    ("process", "low", "high"), [("ddpm", 1 / 1000, 1.0), ("flow", 0.0, 1.0), ("regression", 1.0, 1.0)]
)
def test_training_times_span_the_process(process, low, high):
    noise_process = config(process).build_process()
    times = noise_process.sample_times(20000, torch.Generator().manual_seed(0))
    assert times.min().item() == pytest.approx(low, abs=1e-3)
    assert times.max().item() == pytest.approx(high, abs=1e-3)
    assert times.mean().item() == pytest.approx((low + high) / 2, abs=0.01)
    timesteps = noise_process.timestep(times)
    assert timesteps.min().item() >= 0
    assert timesteps.max().item() <= (999 if process == "ddpm" else 1000)
