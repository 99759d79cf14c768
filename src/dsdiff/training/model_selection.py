"""Which weights of a run are the best so far, and when it is no use going on."""

import math
from collections.abc import Mapping

from dsdiff.config.run import TrainingConfig
from dsdiff.model.checkpoint import Facts
from dsdiff.training.validate import Validation


def badness(judge: str, loss: float, volumes: Mapping[str, float]) -> float:
    """What the best validation has least of; NaN where it does not tell the score."""
    if judge == "loss":
        return loss
    told = volumes.get(judge, math.nan)
    return abs(1 - told) if judge == "gain" else -told


class Judge:
    """Keeps the best validation: of the loss the least, of the gain the one nearest to 1, of other scores the largest.

    ema: number of the average that the last validation found best. `facts` is what a resume restores.
    """

    def __init__(self, settings: TrainingConfig, facts: Facts) -> None:
        self.settings = settings
        self.best = float(facts.get("best", math.inf))  # the smaller, the better
        self.ema = int(facts.get("ema", 0))
        self.waited, self.validated = int(facts.get("waited", 0)), int(facts.get("validated", -1))

    @property
    def facts(self) -> Facts:
        """What goes into the state: the best so far, how many came since, average and step of the last."""
        best: Facts = {"best": self.best} if math.isfinite(self.best) else {}
        return {**best, "ema": self.ema, "waited": self.waited, "validated": self.validated}

    def due(self, step: int) -> bool:
        """Whether a validation of this step is still to be done; of step 0 too: what the start alone is worth."""
        return self.validated < step and (step % self.settings.validate_every == 0 or step == self.settings.steps)

    @property
    def satisfied(self) -> bool:
        """Whether so many validations brought nothing better that the training ends."""
        return self.settings.patience is not None and self.waited >= self.settings.patience

    def is_best(self, step: int, found: Validation) -> bool:
        """Take note of a validation; whether it is the best so far. One without the score counts as none."""
        score = badness(self.settings.select_by, found.loss, found.volumes)
        better = score < self.best  # never true of NaN
        if self.settings.select_by == "loss" or not math.isnan(score):  # a loss that is no number is a bad one
            self.best, self.waited = (score, 0) if better else (self.best, self.waited + 1)
        self.validated, self.ema = step, found.ema
        return better
