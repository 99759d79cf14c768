"""Selection of the best weights of a run, and early stopping."""

import math
from collections.abc import Mapping

from dsdiff.config.training import TrainingConfig
from dsdiff.schema import ConfigModel
from dsdiff.training.validate import Validation


class SelectionState(ConfigModel):
    """What a resume restores.

    Attributes:
        best_loss: Selection loss of the best validation; None before the first one.
        average_index: The average that the last validation chose; an index of `training.ema`.
        n_stale: Validations since the best one.
        last_step: Step of the last validation; -1 before the first one.
    """

    best_loss: float | None = None
    average_index: int = 0
    n_stale: int = 0
    last_step: int = -1


def selection_loss(select_by: str, loss: float, scores: Mapping[str, float]) -> float:
    """Compute the number that model selection minimizes.

    Args:
        select_by: `training.select_by`: "loss", or the name of a score.
        loss: Validation loss.
        scores: Mean scores of full volumes.

    Returns:
        The loss; the distance of `enhancement_recovery` from 1; or the negative of another score. NaN if the validation
        lacks the score.
    """
    if select_by == "loss":
        return loss

    score = scores.get(select_by, math.nan)

    return abs(1 - score) if select_by == "enhancement_recovery" else -score


class ModelSelector:
    """Keep track of the best validation of a run.

    Args:
        settings: The `training` block of a config.
        state: State of a run that is resumed.
    """

    def __init__(self, settings: TrainingConfig, state: SelectionState | None = None) -> None:
        state = state or SelectionState()
        self.settings = settings
        self.best_loss = math.inf if state.best_loss is None else state.best_loss
        self.average_index = state.average_index
        self.n_stale = state.n_stale
        self.last_step = state.last_step

    @property
    def state(self) -> SelectionState:
        """Collect what a resume restores.

        Returns:
            The state.
        """
        return SelectionState(
            best_loss=self.best_loss if math.isfinite(self.best_loss) else None,
            average_index=self.average_index,
            n_stale=self.n_stale,
            last_step=self.last_step,
        )

    @property
    def patience_exhausted(self) -> bool:
        """Tell whether training ends early.

        Returns:
            True after `training.patience` validations without improvement.
        """
        return self.settings.patience is not None and self.n_stale >= self.settings.patience

    def should_validate(self, step: int) -> bool:
        """Tell whether a validation is due. Step 0 is validated too, as a reference.

        Args:
            step: Steps that were trained.

        Returns:
            True at each multiple of `training.validate_every`, and at the last step; False if it was done.
        """
        is_due = step % self.settings.validate_every == 0 or step == self.settings.steps

        return self.last_step < step and is_due

    def update(self, step: int, validation: Validation) -> bool:
        """Record a validation. One without the score of `training.select_by` is not counted.

        Args:
            step: Steps that were trained.
            validation: Its result.

        Returns:
            True if it is the best so far.
        """
        loss = selection_loss(self.settings.select_by, validation.loss, validation.scores)
        is_best = loss < self.best_loss  # False for NaN
        if is_best:
            self.best_loss, self.n_stale = loss, 0
        elif self.settings.select_by == "loss" or not math.isnan(loss):  # a loss that is NaN is a bad one
            self.n_stale += 1

        self.last_step, self.average_index = step, validation.average_index
        return is_best
