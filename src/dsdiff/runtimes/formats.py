"""The formats that a graph is written in, and the runtimes that run it from there.

`onnx` and `openvino` files are descriptions: reading them runs none of their own code. A `torch-export` archive is not:
`torch.export.load` unpickles parts of it, so one is opened only where the user says so (`exported.allow`).
"""

import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor

from dsdiff.errors import ConfigError
from dsdiff.runtimes.graphs import Graph, quiet

OPSET = 18  # of ONNX
Run = Callable[[Sequence[Tensor]], list[Tensor]]  # float32 on the CPU in and out, in the graph's order


@dataclass(frozen=True)
class Format:
    """A format: how a graph is written to a file and opened from one.

    runtime: the package that runs it; writers: those that writing needs beside; extra: what installs them.
    precisions: those that it runs in, the exact one first. devices: kinds of device that it runs on.
    open: of a file, the kind of device and a precision, with as many threads as torch has.
    """

    suffix: str
    runtime: str
    write: Callable[[Graph, Path], None]
    open: Callable[[Path, str, str], Run]
    writers: tuple[str, ...] = ()
    extra: str | None = None
    precisions: tuple[str, ...] = ("fp32",)
    devices: tuple[str, ...] = ("cpu",)
    runs_code: bool = False

    @property
    def packages(self) -> tuple[str, ...]:
        """What an export needs."""
        return (*self.writers, self.runtime)

    def check_installed(self, *packages: str) -> None:
        """Raise `ConfigError` where one of these packages is missing."""
        if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
            raise ConfigError(f"{missing[0]} is not installed; it comes with pip install 'dsdiff-mri[{self.extra}]'")


def _write_onnx(graph: Graph, path: Path) -> None:
    with quiet("torch.onnx"):
        program = torch.onnx.export(
            graph.program, input_names=graph.inputs, output_names=graph.outputs, opset_version=OPSET, verbose=False
        )
    assert program is not None
    program.save(path)


def _open_onnx(path: Path, device: str, precision: str) -> Run:
    import onnxruntime

    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
    if provider not in onnxruntime.get_available_providers():
        raise ConfigError(f"onnxruntime here has no {provider}; pip install onnxruntime-gpu, or give --device cpu")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    session = onnxruntime.InferenceSession(path, options, providers=[provider])
    names = [item.name for item in session.get_inputs()]

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        given = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, given)]

    return run


def _openvino() -> ModuleType:
    """OpenVINO without `openvino_telemetry`, which reports every import to its makers unless the user opted out."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _write_openvino(graph: Graph, path: Path) -> None:
    """By way of ONNX. Under bf16 the sinusoids of t stay fp32: t goes to 1000, of which bf16 keeps three digits."""
    openvino = _openvino()
    with tempfile.TemporaryDirectory() as folder:
        _write_onnx(graph, Path(folder) / "graph.onnx")
        model = openvino.Core().read_model(Path(folder) / "graph.onnx")
        openvino.save_model(model, path, compress_to_fp16=False)
    names = {
        layer.get_friendly_name()
        for sinusoid in model.get_ops()
        if sinusoid.get_type_name() in ("Sin", "Cos")
        for layer in _before(sinusoid)
    }
    tree = ElementTree.parse(path)
    for layer in tree.iterfind("layers/layer"):
        if layer.get("name") in names:
            info = ElementTree.Element("rt_info")
            ElementTree.SubElement(info, "attribute", {"name": "precise", "version": "0"})
            layer.insert(int(layer.find("data") is not None), info)
    tree.write(path)


def _before(layer: Any) -> Iterator[Any]:
    """A layer of OpenVINO's and all that it is computed from, inputs of the graph left out."""
    if layer.get_type_name() != "Parameter":
        yield layer
        for given in layer.inputs():
            yield from _before(given.get_source_output().get_node())


def _open_openvino(path: Path, device: str, precision: str) -> Run:
    hints = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = _openvino().Core().compile_model(path, device.upper(), hints)
    request = compiled.create_infer_request()

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        answer = request.infer([tensor.numpy() for tensor in tensors], share_inputs=True)
        return [torch.from_numpy(answer[output]) for output in compiled.outputs]

    return run


def _write_torch(graph: Graph, path: Path) -> None:
    torch.export.save(graph.program, path)


def _open_torch(path: Path, device: str, precision: str) -> Run:
    module = torch.export.load(path).module(check_guards=False)  # they refuse a batch, or a side, of one

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad(), torch.autocast(device, enabled=False):
            answer = module(*tensors)
        return [answer] if isinstance(answer, Tensor) else list(answer)

    return run


FORMATS: dict[str, Format] = {
    "onnx": Format(
        ".onnx", "onnxruntime", _write_onnx, _open_onnx, ("onnx", "onnxscript"), "onnx", devices=("cpu", "cuda")
    ),
    "openvino": Format(
        ".xml", "openvino", _write_openvino, _open_openvino, ("onnx", "onnxscript"), "openvino", ("fp32", "bf16")
    ),
    "torch-export": Format(".pt2", "torch", _write_torch, _open_torch, runs_code=True),
}  # fmt: skip
