"""Metadata of a model folder: one record that survives its file, and one-line errors for anything else."""

import json

import pytest
import torch

from dsdiff.errors import ModelError, OutputError
from dsdiff.model import checkpoint
from dsdiff.model.metadata import ModelMetadata, PreprocessingRecord
from dsdiff.model.postprocess import ScaleStacking
from dsdiff.preprocessing import normalize
from dsdiff.qc import membership, ood
from dsdiff.qc.features import measure_features
from dsdiff.qc.lineage import NO_FOLD, PretrainingRecord
from dsdiff.volume import Volume
from tests.toy_data import LPS_AFFINE, make_patient


@pytest.fixture(scope="module")
def metadata():
    features = {}
    for seed in range(9):
        volumes = {name: Volume(make_patient(seed)[name], LPS_AFFINE) for name in ("t1", "t2", "flair")}
        features[f"P{seed}"] = measure_features(normalize.preprocess(volumes).case)
    index = membership.fit_training_index(list(features.values()))
    return ModelMetadata(
        steps=7,
        split="abc",
        fold=2,
        preprocessing=PreprocessingRecord(
            settings={"target": "t1ce"}, versions={"numpy": "2"}, scales={"t1": (1.0, 2.0)}
        ),
        ood_detector=ood.fit_ood_detector(features),
        training_index=index,
        lineage=(PretrainingRecord(("abc", 1), index), PretrainingRecord(NO_FOLD, None)),
        postprocessing=ScaleStacking((1.0, 0.5), (1.0, 0.0, 0.25, 0.0), 0.1),
        calibration_factor=0.7,
    )


def test_the_record_survives_its_file(metadata, tmp_path):
    checkpoint.save_model(tmp_path / "model", {"w": torch.zeros(1)}, "seed: 1\n", "card", metadata)
    stored = checkpoint.read_metadata(tmp_path / "model")
    assert stored.to_dict() == metadata.to_dict() == checkpoint.read_model(tmp_path / "model").metadata.to_dict()
    assert (stored.steps, stored.held_out_fold, stored.calibration_factor) == (7, ("abc", 2), 0.7)
    assert stored.ood_detector == metadata.ood_detector
    assert stored.postprocessing == metadata.postprocessing
    assert [record.fold for record in stored.lineage] == [("abc", 1), NO_FOLD]
    assert stored.patient_index is not None


def test_the_file_holds_plain_nested_json(metadata):
    def find_strings(value):
        if isinstance(value, dict):
            return [text for item in value.values() for text in find_strings(item)]
        if isinstance(value, list):
            return [text for item in value for text in find_strings(item)]
        return [value] if isinstance(value, str) else []

    fields = json.loads(json.dumps(metadata.to_dict()))
    assert set(fields["ood_detector"]["shape"]) == {"names", "center", "scale", "correlation", "limit"}
    assert not [text for text in find_strings(fields) if text.startswith(("{", "["))]


def test_an_empty_record_stores_nothing():
    assert ModelMetadata().to_dict() == {}
    assert ModelMetadata().held_out_fold == NO_FOLD
    assert ModelMetadata().patient_index is None


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"calibration_factor": "abc"}, "calibration_factor"),
        ({"calibration_factor": 0}, "calibration_factor"),
        ({"ood_detector": {}}, "ood_detector"),
        ({"style_retriever": {"names": ["x"]}}, "style_retriever"),
        ({"training_index": {"names": ["x"], "center": [0], "scale": [1], "rows": [[0, 1]]}}, "training_index"),
        ({"lineage": [["abc", 1, None]]}, "lineage"),
        ({"postprocessing": []}, "postprocessing"),
        ({"nearest": {}}, "nearest"),
        ([], "values"),
    ],
)
def test_a_damaged_record_is_named_in_one_line(fields, field):
    with pytest.raises(ModelError, match=rf"^here: the metadata of the model is damaged \({field}") as raised:
        ModelMetadata.from_dict(fields, "here")
    assert "\n" not in str(raised.value)


def test_damaged_model_folders_are_rejected(tmp_path):
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        checkpoint.read_model(tmp_path)
    assert checkpoint.read_metadata(tmp_path) == ModelMetadata()

    folder = tmp_path / "model"
    checkpoint.save_model(folder, {"w": torch.arange(3.0)}, "seed: 1\n", "card", ModelMetadata(fold=2))
    assert checkpoint.read_model(folder).weights["w"].dtype == torch.float32
    assert (folder / "model.safetensors").stat().st_mode & 0o044  # others may read what the umask lets them

    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-3])
    for read in (checkpoint.read_model, checkpoint.read_metadata):
        with pytest.raises(ModelError, match="cannot be read"):
            read(folder)


def test_a_folder_of_other_files_is_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(OutputError, match="holds files but no model"):
        checkpoint.save_model(tmp_path, {}, "", "", ModelMetadata())
