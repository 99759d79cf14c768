import pytest

from dsdiff.config.training import TrainingConfig
from dsdiff.training.loop import learning_rate


@pytest.mark.parametrize(("final_lr", "expected"), [(None, 1e-6), (1e-7, 1e-7), (0, 0), (1e-4, 1e-4)])
def test_learning_rate_falls_to_final_lr(final_lr, expected):
    settings = TrainingConfig(lr=1e-4, final_lr=final_lr, warmup=0, steps=100)
    assert learning_rate(settings, 0) == pytest.approx(1e-4)
    assert learning_rate(settings, 100) == pytest.approx(expected)
