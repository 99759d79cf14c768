import pytest

from dsdiff.config import run as configs
from dsdiff.errors import ConfigError
from dsdiff.profiling import cost, memory
from dsdiff.profiling.cost import Counted
from dsdiff.profiling.memory import Need
from tests.toy_data import TINY


def config(**training):
    return configs.parse({**TINY, "training": {**TINY["training"], **training}}, "test")


def test_need_by_hand():
    """Weight, gradient, two moments and an average are 20 bytes; autocast's copy 2, another average 4."""
    counted = Counted(parameters=1000, macs=0, activations=500)
    assert memory.need(config(), counted, half=False) == Need(20_000.0, 1500.0)
    assert memory.need(config(ema=[0.9, 0.99]), counted, half=True) == Need(26_000.0, 750.0)
    assert memory.need(config(strategy="fsdp"), counted, half=True, processes=4) == Need(11_000.0, 750.0)
    assert Need(20_000.0, 1000.0).of(8) == 28_000


def test_the_batch_is_kept_and_divided_into_as_few_parts_as_fit():
    needed, wanted = Need(fixed=1e9, slice=1e9), config(batch_size=6, accumulate=1, lr=1e-4)
    found = memory.fit(wanted, needed, memory=5e9)  # of which 4.5 can be used
    assert (found.batch_size, found.accumulate, found.most) == (3, 2, 3)
    assert found.lr == 1e-4
    seven = memory.fit(config(batch_size=7, lr=1e-4), needed, memory=5e9)  # 3 parts of 3: two slices more
    assert (seven.batch_size, seven.accumulate) == (3, 3)
    assert seven.lr == pytest.approx(1e-4 * (9 / 7) ** 0.5)
    roomy = memory.fit(wanted, needed, memory=30e9)
    assert (roomy.batch_size, roomy.accumulate, roomy.most) == (6, 1, 26)
    assert roomy.most_lr == pytest.approx(1e-4 * (26 / 6) ** 0.5)
    with pytest.raises(ConfigError, match=r"one slice needs about 2\.22 GB, more than the 1\.50 GB"):
        memory.fit(wanted, needed, memory=1.5e9)


@pytest.mark.parametrize(("text", "bytes_"), [("12GB", 12e9), ("1.5GiB", 1.5 * 2**30), ("800 MB", 8e8)])
def test_memory_is_read(text, bytes_):
    assert memory.parse(text) == bytes_


@pytest.mark.parametrize("text", ["12", "0GB", "-1GB", "GB", "12 elephants"])
def test_what_is_no_memory_is_refused(text):
    with pytest.raises(ConfigError, match="memory"):
        memory.parse(text)


def test_an_encoder_of_contrasts_is_counted():
    plain, more = (cost.count(made, 32, 48) for made in (config(), with_encoder()))
    assert more.parameters > plain.parameters
    assert more.macs > plain.macs
    assert more.activations > plain.activations


def with_encoder():
    return configs.parse({**TINY, "conditioning": {"encoder": "shared"}}, "test")


def test_a_slice_more_needs_what_it_is_said_to_need():
    counted = cost.count(config(), 32, 48)
    assert counted.activations > 0
    needed = memory.need(config(), counted, half=False)
    assert needed.of(3) - needed.of(2) == 3 * counted.activations
