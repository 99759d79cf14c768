"""What a model folder stores beside its weights: one typed record, written as plain nested JSON."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PlainSerializer, PlainValidator, ValidationError

from dsdiff.errors import ConfigError, ModelError
from dsdiff.io import splits
from dsdiff.model.postprocess import ScaleStacking
from dsdiff.qc.lineage import NO_FOLD, Fold, PretrainingRecord
from dsdiff.qc.membership import TrainingSetIndex
from dsdiff.qc.ood import OODDetector
from dsdiff.schema import ConfigModel, format_validation_error
from dsdiff.style.retrieval import StyleRetriever

MAX_REASON_LENGTH = 300  # characters of the reason in an error message


def _parser(stored_class: Any) -> Callable[[Any], Any]:
    """Build a validator that accepts an instance of a class, or the plain values of its `to_dict`."""

    def parse(value: Any) -> Any:
        if isinstance(value, stored_class):
            return value

        try:
            return stored_class.from_dict(value)
        except (KeyError, TypeError, AttributeError) as error:  # pydantic reports ValueError only
            raise ValueError(f"{type(error).__name__}: {error}") from error

    return parse


AS_DICT = PlainSerializer(lambda value: value.to_dict())
StoredDetector = Annotated[OODDetector, PlainValidator(_parser(OODDetector)), AS_DICT]
StoredRetriever = Annotated[StyleRetriever, PlainValidator(_parser(StyleRetriever)), AS_DICT]
StoredIndex = Annotated[TrainingSetIndex, PlainValidator(_parser(TrainingSetIndex)), AS_DICT]
StoredRecord = Annotated[PretrainingRecord, PlainValidator(_parser(PretrainingRecord)), AS_DICT]
StoredStacking = Annotated[ScaleStacking, PlainValidator(_parser(ScaleStacking)), AS_DICT]


class PreprocessingRecord(ConfigModel):
    """How the training patients were preprocessed.

    Attributes:
        settings: Contrasts, source contrast, target and planes.
        versions: Versions of the packages that preprocessed them.
        scales: Median center and width of each contrast (see `geometry.IntensityScale`); empty if no store was used.
    """

    settings: dict[str, Any]
    versions: dict[str, str]
    scales: dict[str, tuple[float, float]] = Field(default_factory=dict)


class ModelMetadata(ConfigModel):
    """What a trained model records about its training and its use.

    Attributes:
        steps: Training steps.
        processes: Processes that trained it.
        ema_decay: Decay of its average; None if the run has only one.
        split, fold: Hash of the split, and the fold that was held out; None if no fold was.
        store: Hash of the store of training patients; None for a folder of cases.
        preprocessing: How the training patients were preprocessed.
        ood_detector: Out-of-distribution detector, fitted on the training patients.
        style_retriever: Styles of the training patients, for a model that takes the style of similar patients.
        training_index: Features of the training patients; None if the style retriever holds them.
        lineage: Training patients of the models that the weights started from, the oldest first.
        postprocessing: Recombination of the output from Gaussian scales; None keeps the output.
        calibration_factor: Factor of the predicted standard deviation.
    """

    steps: int | None = None
    processes: int = 1
    ema_decay: float | None = None
    split: str | None = None
    fold: int | None = None
    store: str | None = None
    preprocessing: PreprocessingRecord | None = None
    ood_detector: StoredDetector | None = None
    style_retriever: StoredRetriever | None = None
    training_index: StoredIndex | None = None
    lineage: tuple[StoredRecord, ...] = ()
    postprocessing: StoredStacking | None = None
    calibration_factor: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    @property
    def patient_index(self) -> TrainingSetIndex | None:
        """Find the features of the training patients.

        Returns:
            The training-set index, or the one inside the style retriever; None if there is neither.
        """
        return self.training_index or self.style_retriever

    @property
    def held_out_fold(self) -> Fold:
        """Name the fold that was held out.

        Returns:
            Hash of the split, and number of the fold; `NO_FOLD` if no fold was held out.
        """
        return NO_FOLD if self.split is None or self.fold is None else (self.split, self.fold)

    def check_fold(self, split_path: Path, fold: int, model_path: Path) -> None:
        """Check that the model was trained without a fold of a split.

        Args:
            split_path: The split file as it is now.
            fold: Number of the fold.
            model_path: The model, for the message.

        Raises:
            ConfigError: The model was trained with another split or another fold.
        """
        split_hash = splits.read(split_path).hash
        if self.held_out_fold != (split_hash, fold):
            raise ConfigError(
                f"the model {model_path} was trained without fold {self.fold} of split {self.split}; fold {fold} of "
                f"{split_hash}, the present split {split_path}, may hold patients of its training"
            )

    def to_dict(self) -> dict[str, Any]:
        """Convert the record to plain values.

        Returns:
            Lists, dictionaries, strings and numbers; fields at their default are left out.
        """
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def from_dict(cls, fields: Any, source: str) -> "ModelMetadata":
        """Read plain values.

        Args:
            fields: What `to_dict` returned.
            source: Folder or file of the model, for the message.

        Returns:
            The record.

        Raises:
            ModelError: The values are no such record.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            reason = " ".join(format_validation_error(error).split())[:MAX_REASON_LENGTH]  # in one line
            raise ModelError(f"{source}: the metadata of the model is damaged ({reason})") from error
