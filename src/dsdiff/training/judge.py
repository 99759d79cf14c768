"""Which weights of a run are the best so far, and when it is no use going on."""

import math

from dsdiff.checkpoint import Facts
from dsdiff.config import TrainingConfig


class Judge:
    """Keeps the best validation: of the loss the least, of any score the largest. `facts` is what a resume restores."""

    def __init__(self, settings: TrainingConfig, facts: Facts) -> None:
        self.settings = settings
        self.best = float(facts.get("best", math.inf))  # the smaller, the better
        self.waited, self.validated = int(facts.get("waited", 0)), int(facts.get("validated", -1))

    @property
    def facts(self) -> Facts:
        """What goes into the state: the best so far, validations since then, the step of the last one."""
        best: Facts = {"best": self.best} if math.isfinite(self.best) else {}
        return {**best, "waited": self.waited, "validated": self.validated}

    def due(self, step: int) -> bool:
        """Whether a validation of this step is still to be done; of step 0 too: what the start alone is worth."""
        return self.validated < step and (step % self.settings.validate_every == 0 or step == self.settings.steps)

    @property
    def satisfied(self) -> bool:
        """Whether so many validations brought nothing better that the training ends."""
        return self.settings.patience is not None and self.waited >= self.settings.patience

    def is_best(self, step: int, loss: float, scores: dict[str, float]) -> bool:
        """Take note of a validation; whether it is the best so far."""
        found = loss if self.settings.judge == "loss" else -scores[self.settings.judge]
        better = found < self.best  # never true of NaN
        self.best, self.waited = (found, 0) if better else (self.best, self.waited + 1)
        self.validated = step
        return better
