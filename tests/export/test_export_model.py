"""An exported model synthesizes the same T1ce; an export that differs is not kept; archives need trust."""

import functools
import json
import logging
import re
import shutil
import sys
from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch

from dsdiff.config.run import dump_config, parse_config
from dsdiff.errors import ConfigError, DsdiffError, ModelError, OutputError
from dsdiff.export import export_model
from dsdiff.inference.model import load_model
from dsdiff.inference.options import SynthesisOptions
from dsdiff.inference.pipeline import Pipeline
from dsdiff.io.cases import discover_cases
from dsdiff.model import checkpoint
from dsdiff.model.metadata import ModelMetadata
from dsdiff.runtimes import formats, graphs
from dsdiff.runtimes.network import read_metadata, trust_folder
from dsdiff.system.device import has_bf16
from dsdiff.volume import Volume
from tests.toy_data import TINY_CONFIG, make_patient, randomize_zeros, write_case

CPU = torch.device("cpu")
FILES = {
    "onnx": {"condition.onnx", "denoise.onnx"},
    "openvino": {"condition.xml", "condition.bin", "denoise.xml", "denoise.bin"},
    "torch-export": {"condition.pt2", "denoise.pt2"},
}
RUNTIME_PREFIXES = {"onnx": "onnxruntime ", "openvino": "openvino ", "torch-export": "torch "}
DIT = {"image_size": 32, "patch_size": 8, "hidden_size": 64, "depth": 1, "num_heads": 4}
CONFIG_VALUES = TINY_CONFIG | {"backbone": {"target": "dit", "params": DIT}, "conditioning": {"edges": "sobel"}}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that is quick to trace, with random weights."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    config = parse_config(CONFIG_VALUES, "tiny")
    torch.manual_seed(3)
    network = config.build_network()
    randomize_zeros(network)
    metadata = ModelMetadata(steps=5, calibration_factor=0.75)
    checkpoint.save_model(folder, network.state_dict(), dump_config(config), "", metadata)
    return load_model(folder, CPU)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    (case,) = discover_cases(write_case(tmp_path_factory.mktemp("cohort"), "P0"))
    return case


@pytest.fixture(scope="module", autouse=True)
def trace_once():
    """Tracing takes seconds; under pytest's logging and the type checks it takes minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        traced, trace_graphs = {}, graphs.trace_graphs
        patch.setattr(graphs, "trace_graphs", lambda *args: traced or traced.update(trace_graphs(*args)) or traced)
        yield


@pytest.fixture(scope="module")
def exports(model, case, tmp_path_factory):
    """A function that returns the folder of the model in a format."""
    folder = tmp_path_factory.mktemp("exports")

    @functools.cache
    def export_to(format_name):
        export_model.export_model(model, folder / format_name, format_name, case=case)
        return folder / format_name

    return export_to


def make_volumes():
    affine = np.diag([-1.0, -1, 1, 1])
    images = make_patient()
    return {name: Volume(images[name][..., 9:14], affine) for name in ("t1", "t2", "flair")}


@pytest.mark.parametrize("format_name", FILES)
def test_an_export_synthesizes_the_t1ce_of_its_model(format_name, model, exports, monkeypatch):
    folder = exports(format_name)
    for module in ("dsdiff.system.device", "dsdiff.runtimes.network"):
        monkeypatch.setattr(f"{module}.has_bf16", lambda device: False)
    trust_folder(folder)
    exported_model = load_model(folder, CPU)
    assert {path.name for path in folder.iterdir()} == FILES[format_name] | {"config.yaml", "export.json", "README.md"}
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert (exported_model.name, exported_model.multiple) == (format_name, model.multiple)
    assert exported_model.engine.precision == "fp32"
    assert exported_model.engine.name.startswith(RUNTIME_PREFIXES[format_name])

    options = SynthesisOptions(samples=2, seed=3)
    expected = Pipeline(model, options).synthesize_volumes(make_volumes())
    result = Pipeline(exported_model, options).synthesize_volumes(make_volumes())
    assert expected.z.std() > 0.1
    assert np.abs(result.z - expected.z).max() < 1e-4 * np.abs(expected.z).max()
    assert np.abs(result.z_std - expected.z_std).max() < 1e-3 * expected.z_std.max()


def test_the_metadata_of_an_export_holds_those_of_its_model(model, exports):
    fields = json.loads((exports("onnx") / "export.json").read_text())
    assert fields["source"] == {"name": "tiny", "hash": model.hash}
    assert fields["parity"]["fp32"]["difference"] < 1e-4
    assert (fields["model"]["steps"], fields["model"]["calibration_factor"]) == (5, 0.75)
    assert load_model(exports("onnx"), CPU).metadata == model.metadata
    assert model.hash in (exports("onnx") / "README.md").read_text()


def test_hidden_files_do_not_change_the_hash(exports, tmp_path):
    folder = shutil.copytree(exports("onnx"), tmp_path / "copy")
    (folder / ".cache" / "hub").mkdir(parents=True)
    (folder / ".DS_Store").touch()
    assert load_model(folder, CPU).hash == load_model(exports("onnx"), CPU).hash


def test_bf16_is_compared_in_bf16(model, exports):
    parity = read_metadata(exports("openvino")).parity
    if not has_bf16(CPU):
        assert set(parity) == {"fp32"}
        pytest.skip("this machine has no bf16")
    assert load_model(exports("openvino"), CPU).engine.precision == "bf16"
    assert 45 < parity["bf16"].psnr < parity["fp32"].psnr
    with pytest.raises(ConfigError, match="onnx takes: auto, fp32"):
        export_model.export_model(model, exports("openvino"), "onnx", precision="bf16")


def test_an_archive_that_can_run_code_needs_trust(exports, tmp_path):
    folder = shutil.copytree(exports("torch-export"), tmp_path / "untrusted")
    with pytest.raises(ModelError, match=re.escape(f"pass --allow-code {folder} to dsdiff synth")):
        load_model(folder, CPU)


def test_openvino_telemetry_is_not_imported(exports):
    exports("openvino")
    assert sys.modules["openvino_telemetry"] is None


@pytest.fixture
def zero_format(monkeypatch):
    """Replace onnx by a format whose graphs return zeros."""

    def zeros(tensors):
        return [torch.zeros_like(tensors[0][:, :, 0] if tensors[0].ndim == 5 else tensors[0])]

    zero_format = replace(
        formats.FORMATS["onnx"], write=lambda graph, path: path.write_text("0"), load=lambda *args: zeros
    )
    monkeypatch.setitem(formats.FORMATS, "onnx", zero_format)


def test_an_export_that_differs_is_not_kept(model, case, tmp_path, zero_format):
    with pytest.raises(DsdiffError, match="onnx in fp32 differs from the network by up to") as raised:
        export_model.export_model(model, tmp_path / "new" / "export", "onnx", case=case)
    assert raised.value.exit_code == 1
    assert not list(tmp_path.iterdir())


def test_an_untrained_network_is_not_exported(case, tmp_path, zero_format):
    config = parse_config(CONFIG_VALUES, "tiny")
    weights = config.build_network().state_dict()
    checkpoint.save_model(tmp_path / "untrained", weights, dump_config(config), "", ModelMetadata())
    with pytest.raises(ModelError, match="predicts zero everywhere"):
        export_model.export_model(load_model(tmp_path / "untrained", CPU), tmp_path / "export", "onnx", case=case)
    assert not (tmp_path / "export").exists()


def test_impossible_exports_are_rejected(model, exports, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="format 'tflite' is unknown; choose one of: onnx, openvino, torch-export"):
        export_model.export_model(model, tmp_path / "export", "tflite")
    with pytest.raises(ModelError, match="is exported already"):
        export_model.export_model(load_model(exports("onnx"), CPU), tmp_path / "export", "torch-export")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(OutputError, match=re.escape(str(tmp_path))):
        export_model.export_model(model, tmp_path, "torch-export")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"onnx is not installed; run pip install 'dsdiff-mri\[onnx\]'"):
        export_model.export_model(model, tmp_path / "export", "onnx")
    with pytest.raises(ConfigError, match="onnxruntime is not installed"):
        load_model(exports("onnx"), CPU)


def test_a_damaged_export_is_rejected(exports, tmp_path):
    folder = shutil.copytree(exports("onnx"), tmp_path / "damaged")
    (folder / "denoise.onnx").write_bytes((folder / "denoise.onnx").read_bytes()[:999])
    with pytest.raises(ModelError, match="onnxruntime cannot open it"):
        load_model(folder, CPU)

    fields = json.loads((folder / "export.json").read_text())
    for damage in ({"format": "pickle"}, {"model": {"steps": "many"}}):
        (folder / "export.json").write_text(json.dumps(fields | damage))
        with pytest.raises(ModelError, match="does not describe an exported model"):
            load_model(folder, CPU)


def test_an_unsupported_device_is_rejected(exports):
    with pytest.raises(ConfigError, match="openvino runs on cpu here, not on cuda"):
        load_model(exports("openvino"), torch.device("cuda"))


def test_an_exported_model_has_no_layers(exports):
    with pytest.raises(ModelError, match="give the model folder 'tiny'"):
        _ = load_model(exports("onnx"), CPU).network.conditioner


def test_the_openvino_cache_is_filled_once(model, exports, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    formats_written = []

    def copy_export(model, folder, format_name):
        formats_written.append(format_name)
        shutil.copytree(exports(format_name), folder)

    monkeypatch.setattr(export_model, "export_model", copy_export)
    exported_model, cached_model = export_model.openvino_cached(model), export_model.openvino_cached(model)
    assert formats_written == ["openvino"]
    assert exported_model.name == "tiny"
    assert exported_model.hash == cached_model.hash == model.hash
    assert exported_model.engine.name == cached_model.engine.name
    assert export_model.openvino_cache_path(model).is_relative_to(tmp_path / "dsdiff")
    with pytest.raises(ModelError, match="is exported already"):
        export_model.openvino_cached(exported_model)
