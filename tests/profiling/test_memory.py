import pytest

from dsdiff.config.run import parse_config
from dsdiff.errors import ConfigError
from dsdiff.profiling import cost, memory
from dsdiff.profiling.cost import CountedCost
from dsdiff.profiling.memory import MemoryEstimate
from tests.toy_data import TINY_CONFIG


def build_config(**training):
    return parse_config({**TINY_CONFIG, "training": {**TINY_CONFIG["training"], **training}}, "test")


def test_memory_of_a_training_by_hand():
    """Weight, gradient, two moments and an average are 20 bytes, autocast's copy 2, another average 4."""
    counts = CountedCost(parameters=1000, macs=0, activation_bytes=500)
    fp32 = memory.estimate_memory(build_config(), counts, half_precision=False)
    assert fp32 == MemoryEstimate(20_000.0, 1500.0)
    two_averages = memory.estimate_memory(build_config(ema=[0.9, 0.99]), counts, half_precision=True)
    assert two_averages == MemoryEstimate(26_000.0, 750.0)
    fsdp = memory.estimate_memory(build_config(strategy="fsdp"), counts, half_precision=True, processes=4)
    assert fsdp == MemoryEstimate(11_000.0, 750.0)
    assert MemoryEstimate(20_000.0, 1000.0).total_bytes(8) == 28_000


def test_a_batch_is_divided_into_as_few_parts_as_fit():
    estimate, config = MemoryEstimate(fixed_bytes=1e9, bytes_per_slice=1e9), build_config(batch_size=6, lr=1e-4)
    fit = memory.fit_batch(config, estimate, memory_bytes=5e9)  # 4.5e9 of them are usable
    assert (fit.batch_size, fit.accumulate, fit.max_slices) == (3, 2, 3)
    assert fit.lr == 1e-4

    fit = memory.fit_batch(config, estimate, memory_bytes=30e9)
    assert (fit.batch_size, fit.accumulate, fit.max_slices) == (6, 1, 26)
    assert fit.max_slices_lr == pytest.approx(1e-4 * (26 / 6) ** 0.5)


def test_a_larger_batch_has_a_larger_learning_rate():
    estimate = MemoryEstimate(fixed_bytes=1e9, bytes_per_slice=1e9)
    fit = memory.fit_batch(build_config(batch_size=7, lr=1e-4), estimate, memory_bytes=5e9)
    assert (fit.batch_size, fit.accumulate) == (3, 3)  # two slices more than 7
    assert fit.lr == pytest.approx(1e-4 * (9 / 7) ** 0.5)


def test_too_little_memory_for_one_slice_is_refused():
    estimate = MemoryEstimate(fixed_bytes=1e9, bytes_per_slice=1e9)
    with pytest.raises(ConfigError, match=r"one slice needs about 2\.22 GB, more than the 1\.50 GB"):
        memory.fit_batch(build_config(batch_size=6), estimate, memory_bytes=1.5e9)


@pytest.mark.parametrize(("text", "n_bytes"), [("12GB", 12e9), ("1.5GiB", 1.5 * 2**30), ("800 MB", 8e8)])
def test_memory_is_a_number_and_a_unit(text, n_bytes):
    assert memory.parse_memory(text) == n_bytes


@pytest.mark.parametrize("text", ["12", "0GB", "-1GB", "GB", "12 elephants"])
def test_memory_without_number_and_unit_is_refused(text):
    with pytest.raises(ConfigError, match="is not an amount of memory"):
        memory.parse_memory(text)


def test_the_contrast_encoder_is_counted():
    with_encoder = parse_config({**TINY_CONFIG, "conditioning": {"encoder": "shared"}}, "test")
    plain, encoded = (cost.count_cost(config, 32, 48) for config in (build_config(), with_encoder))
    assert encoded.parameters > plain.parameters
    assert encoded.macs > plain.macs
    assert encoded.activation_bytes > plain.activation_bytes


def test_one_more_slice_needs_three_bytes_per_activation_byte_in_fp32():
    counts = cost.count_cost(build_config(), 32, 48)
    assert counts.activation_bytes > 0
    estimate = memory.estimate_memory(build_config(), counts, half_precision=False)
    assert estimate.total_bytes(3) - estimate.total_bytes(2) == 3 * counts.activation_bytes
