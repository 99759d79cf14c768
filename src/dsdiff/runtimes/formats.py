"""File formats of graphs, and the runtimes that run them.

Loading `onnx` and `openvino` files runs no code of theirs. `torch.export.load` unpickles parts of a `torch-export`
archive, which can run code; such an archive is loaded only if the user trusts it (`network.trust_folder`).
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
from dsdiff.runtimes.graphs import Graph, silence_logger

OPSET = 18  # of ONNX
ONNX_LOG_ERRORS = 3  # severity of errors in onnxruntime
GraphRunner = Callable[[Sequence[Tensor]], list[Tensor]]  # float32 on the CPU in and out, in the graph's order


@dataclass(frozen=True)
class ExportFormat:
    """A format of graphs.

    Attributes:
        suffix: Of the file.
        runtime: Package that runs it.
        write: Writes a graph to a file.
        load: Loads a graph from a file, for a kind of device and a precision, with as many threads as torch has.
        writers: Packages that writing needs besides the runtime.
        extra: Extra of dsdiff that installs the packages.
        precisions: Precisions that it runs in, the exact one first.
        devices: Kinds of device that it runs on.
        can_run_code: Loading a file can run code of the file.
    """

    suffix: str
    runtime: str
    write: Callable[[Graph, Path], None]
    load: Callable[[Path, str, str], GraphRunner]
    writers: tuple[str, ...] = ()
    extra: str | None = None
    precisions: tuple[str, ...] = ("fp32",)
    devices: tuple[str, ...] = ("cpu",)
    can_run_code: bool = False

    @property
    def packages(self) -> tuple[str, ...]:
        """List the packages that an export needs.

        Returns:
            Names.
        """
        return (*self.writers, self.runtime)

    def check_installed(self, *packages: str) -> None:
        """Check that packages are installed.

        Args:
            packages: Names.

        Raises:
            ConfigError: One is missing.
        """
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if missing:
            raise ConfigError(f"{missing[0]} is not installed; run pip install 'dsdiff-mri[{self.extra}]'")


def _write_onnx(graph: Graph, path: Path) -> None:
    with silence_logger("torch.onnx"):
        program = torch.onnx.export(
            graph.program, input_names=graph.inputs, output_names=graph.outputs, opset_version=OPSET, verbose=False
        )
    assert program is not None
    program.save(path)


def _load_onnx(path: Path, device: str, precision: str) -> GraphRunner:
    import onnxruntime

    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
    if provider not in onnxruntime.get_available_providers():
        raise ConfigError(f"onnxruntime lacks {provider}; run pip install onnxruntime-gpu, or give --device cpu")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = ONNX_LOG_ERRORS
    session = onnxruntime.InferenceSession(path, options, providers=[provider])
    names = [item.name for item in session.get_inputs()]

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        inputs = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, inputs)]

    return run


def _import_openvino() -> ModuleType:
    """Import OpenVINO without `openvino_telemetry`, which reports each import to Intel unless the user opted out."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _write_openvino(graph: Graph, path: Path) -> None:
    """Convert from ONNX. Under bf16 the sinusoids of t stay fp32, because bf16 rounds t (up to 1000) to 3 digits."""
    openvino = _import_openvino()
    with tempfile.TemporaryDirectory() as folder:
        _write_onnx(graph, Path(folder) / "graph.onnx")
        model = openvino.Core().read_model(Path(folder) / "graph.onnx")
        openvino.save_model(model, path, compress_to_fp16=False)
    fp32_names: set[str] = set()
    for operation in model.get_ops():
        if operation.get_type_name() in ("Sin", "Cos"):
            fp32_names |= {layer.get_friendly_name() for layer in _upstream_layers(operation)}

    tree = ElementTree.parse(path)
    for layer in tree.iterfind("layers/layer"):
        if layer.get("name") in fp32_names:
            info = ElementTree.Element("rt_info")
            ElementTree.SubElement(info, "attribute", {"name": "precise", "version": "0"})
            layer.insert(int(layer.find("data") is not None), info)
    tree.write(path)


def _upstream_layers(layer: Any) -> Iterator[Any]:
    """A layer of OpenVINO and all layers that it is computed from, without inputs of the graph."""
    if layer.get_type_name() != "Parameter":
        yield layer
        for layer_input in layer.inputs():
            yield from _upstream_layers(layer_input.get_source_output().get_node())


def _load_openvino(path: Path, device: str, precision: str) -> GraphRunner:
    hints = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = _import_openvino().Core().compile_model(path, device.upper(), hints)
    request = compiled.create_infer_request()

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        results = request.infer([tensor.numpy() for tensor in tensors], share_inputs=True)
        return [torch.from_numpy(results[output]) for output in compiled.outputs]

    return run


def _write_torch(graph: Graph, path: Path) -> None:
    torch.export.save(graph.program, path)


def _load_torch(path: Path, device: str, precision: str) -> GraphRunner:
    module = torch.export.load(path).module(check_guards=False)  # guards reject sizes of one

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad(), torch.autocast(device, enabled=False):
            outputs = module(*tensors)
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)

    return run


FORMATS: dict[str, ExportFormat] = {
    "onnx": ExportFormat(
        suffix=".onnx",
        runtime="onnxruntime",
        write=_write_onnx,
        load=_load_onnx,
        writers=("onnx", "onnxscript"),
        extra="onnx",
        devices=("cpu", "cuda"),
    ),
    "openvino": ExportFormat(
        suffix=".xml",
        runtime="openvino",
        write=_write_openvino,
        load=_load_openvino,
        writers=("onnx", "onnxscript"),
        extra="openvino",
        precisions=("fp32", "bf16"),
    ),
    "torch-export": ExportFormat(
        suffix=".pt2", runtime="torch", write=_write_torch, load=_load_torch, can_run_code=True
    ),
}
