"""An exported model is the model: the same T1ce, kept only where it agrees, opened only where that is safe."""

import functools
import json
import logging
import re
import shutil
from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch

from dsdiff.config import run as configs
from dsdiff.errors import ConfigError, DsdiffError, ModelError, OutputError
from dsdiff.inference import export
from dsdiff.inference import model as models
from dsdiff.inference.options import plan
from dsdiff.inference.pipeline import run
from dsdiff.io import cases
from dsdiff.model import checkpoint
from dsdiff.runtimes import formats, graphs
from dsdiff.runtimes import network as exported
from dsdiff.system import device as devices
from dsdiff.volume import Volume
from tests.toy_data import TINY, patient, wake, write_case

CPU = torch.device("cpu")
FILES = {
    "onnx": {"condition.onnx", "denoise.onnx"},
    "openvino": {"condition.xml", "condition.bin", "denoise.xml", "denoise.bin"},
    "torch-export": {"condition.pt2", "denoise.pt2"},
}


BACKBONE = {"target": "dit", "params": {"image_size": 32, "patch_size": 8, "hidden_size": 64, "depth": 1, "num_heads": 4}}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that is quick to trace; its weights are awake."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    config = configs.parse(TINY | {"backbone": BACKBONE, "conditioning": {"edges": "sobel"}}, "tiny")
    torch.manual_seed(3)
    network = config.build_network()
    wake(network)
    checkpoint.save(folder, network.state_dict(), configs.dump(config), "", {})
    return models.load(folder, CPU)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    (found,) = cases.discover(write_case(tmp_path_factory.mktemp("cohort"), "P0"))
    return found


@pytest.fixture(scope="module", autouse=True)
def traced_once():
    """Tracing takes seconds, and under pytest's logging and our type checks minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        kept, tracing = {}, graphs.trace
        patch.setattr(graphs, "trace", lambda *args: kept or kept.update(tracing(*args)) or kept)
        yield


@pytest.fixture(scope="module")
def exports(model, case, tmp_path_factory):
    """A function: the folder of the model in a format."""
    folder = tmp_path_factory.mktemp("exports")

    @functools.cache
    def made(to):
        export.export(model, folder / to, to, check=case)
        return folder / to

    return made


def volumes():
    affine = np.diag([-1.0, -1, 1, 1])
    return {
        name: Volume(array[..., 9:14], affine) for name, array in patient().items() if name in ("t1", "t2", "flair")
    }


@pytest.mark.parametrize("to", FILES)
def test_an_export_gives_the_t1ce_of_its_model(to, model, exports, monkeypatch):
    folder = exports(to)
    monkeypatch.setattr(devices, "has_bf16", lambda device: False)
    exported.allow(folder)
    loaded = models.load(folder, CPU)
    assert {path.name for path in folder.iterdir()} == FILES[to] | {"config.yaml", "export.json", "README.md"}
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert (loaded.name, loaded.engine.precision, loaded.multiple) == (to, "fp32", model.multiple)
    assert loaded.engine.name.startswith({"onnx": "onnxruntime ", "torch-export": "torch "}.get(to, "openvino "))
    wanted, got = (
        run(volumes(), model, plan(model, samples=2, seed=3)),
        run(volumes(), loaded, plan(model, samples=2, seed=3)),
    )
    assert wanted.z.std() > 0.1
    assert np.abs(got.z - wanted.z).max() < 1e-4 * np.abs(wanted.z).max()
    assert np.abs(got.z_std - wanted.z_std).max() < 1e-3 * wanted.z_std.max()
    facts = json.loads((folder / "export.json").read_text())
    assert facts["source"] == {"name": "tiny", "hash": model.hash}
    assert facts["check"]["fp32"]["difference"] < 1e-4
    assert model.hash in (folder / "README.md").read_text()


def test_what_others_leave_in_the_folder_does_not_change_its_hash(exports, tmp_path):
    folder = shutil.copytree(exports("onnx"), tmp_path / "fetched")
    (folder / ".cache" / "hub").mkdir(parents=True)
    (folder / ".DS_Store").touch()
    assert models.load(folder, CPU).hash == models.load(exports("onnx"), CPU).hash


def test_bf16_is_tried_as_bf16(model, exports):
    near = exported.read_facts(exports("openvino")).check
    if not devices.has_bf16(CPU):
        assert set(near) == {"fp32"}
        pytest.skip("this machine computes no bf16")
    assert models.load(exports("openvino"), CPU).engine.precision == "bf16"
    assert 45 < near["bf16"].psnr < near["fp32"].psnr
    with pytest.raises(ConfigError, match="onnx takes: auto, fp32"):
        export.export(model, exports("openvino"), "onnx", precision="bf16")


def test_an_archive_that_can_run_code_is_opened_only_when_allowed(exports, tmp_path):
    folder = shutil.copytree(exports("torch-export"), tmp_path / "from elsewhere")
    with pytest.raises(ModelError, match=re.escape(f"dsdiff synth takes --allow-code {folder}")):
        models.load(folder, CPU)


def test_no_import_of_openvino_is_reported(exports):
    import sys

    exports("openvino")
    assert sys.modules["openvino_telemetry"] is None


@pytest.fixture
def wrong(monkeypatch):
    """A format whose graphs answer zero."""

    def zeros(tensors):
        return [torch.zeros_like(tensors[0][:, :, 0] if tensors[0].ndim == 5 else tensors[0])]

    bad = replace(formats.FORMATS["onnx"], write=lambda graph, path: path.write_text("0"), open=lambda *given: zeros)
    monkeypatch.setitem(formats.FORMATS, "onnx", bad)


def test_an_export_that_differs_is_not_kept(model, case, tmp_path, wrong):
    with pytest.raises(DsdiffError, match="onnx in fp32 is not the network: they differ by up to") as raised:
        export.export(model, tmp_path / "new" / "out", "onnx", check=case)
    assert raised.value.exit_code == 1
    assert not list(tmp_path.iterdir())


def test_a_network_that_says_nothing_is_not_exported(case, tmp_path, wrong):
    config = configs.parse(TINY | {"backbone": BACKBONE, "conditioning": {"edges": "sobel"}}, "tiny")
    checkpoint.save(tmp_path / "new", config.build_network().state_dict(), configs.dump(config), "", {})
    with pytest.raises(ModelError, match="answers zero everywhere"):
        export.export(models.load(tmp_path / "new", CPU), tmp_path / "out", "onnx", check=case)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported_is_refused(model, exports, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="format 'tflite' is unknown; there are: onnx, openvino, torch-export"):
        export.export(model, tmp_path / "out", "tflite")
    with pytest.raises(ModelError, match="is exported already"):
        export.export(models.load(exports("onnx"), CPU), tmp_path / "out", "torch-export")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(OutputError, match="it is left alone"):
        export.export(model, tmp_path, "torch-export")
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"onnx is not installed; it comes with pip install 'dsdiff-mri\[onnx\]'"):
        export.export(model, tmp_path / "out", "onnx")
    with pytest.raises(ConfigError, match="onnxruntime is not installed"):
        models.load(exports("onnx"), CPU)


def test_a_damaged_export_is_refused(exports, tmp_path):
    folder = shutil.copytree(exports("onnx"), tmp_path / "damaged")
    (folder / "denoise.onnx").write_bytes((folder / "denoise.onnx").read_bytes()[:999])
    with pytest.raises(ModelError, match="onnxruntime cannot open it"):
        models.load(folder, CPU)
    facts = json.loads((folder / "export.json").read_text())
    (folder / "export.json").write_text(json.dumps(facts | {"format": "pickle"}))
    with pytest.raises(ModelError, match="does not describe an exported model"):
        models.load(folder, CPU)


def test_a_device_that_it_does_not_run_on_is_refused(exports):
    with pytest.raises(ConfigError, match="openvino runs on cpu here, not on cuda"):
        models.load(exports("openvino"), torch.device("cuda"))


def test_a_graph_has_no_inside_to_probe(exports):
    with pytest.raises(ModelError, match="give the model folder 'tiny'"):
        _ = models.load(exports("onnx"), CPU).network.conditioner


def test_a_model_is_converted_once(model, exports, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []
    monkeypatch.setattr(
        export, "export", lambda model, place, to: made.append(to) or shutil.copytree(exports(to), place)
    )
    first, again = export.converted(model), export.converted(model)
    assert made == ["openvino"]
    assert (first.name, first.engine.name, first.hash, again.hash) == (
        "tiny",
        again.engine.name,
        model.hash,
        model.hash,
    )
    assert export.cache_place(model).is_relative_to(tmp_path / "dsdiff")
    with pytest.raises(ModelError, match="is exported already"):
        export.converted(first)
