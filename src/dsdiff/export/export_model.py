"""Export a model as graphs for another runtime, and compare the graphs with the network before they are kept."""

import os
import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch

from dsdiff import __version__
from dsdiff.conditioning.network import Network
from dsdiff.config.run import dump_config, strip_local_paths
from dsdiff.errors import ConfigError, ModelError
from dsdiff.export.parity import check_parity, select_test_slices
from dsdiff.inference.model import Model, load_model
from dsdiff.io.cases import Case, bundled_phantom
from dsdiff.model import checkpoint
from dsdiff.runtimes import graphs
from dsdiff.runtimes.formats import FORMATS, OPSET, ExportFormat
from dsdiff.runtimes.network import (
    FILE_KIND,
    METADATA_FILE,
    ExportedNetwork,
    ExportMetadata,
    SourceModel,
    graph_files,
    is_exported,
    write_metadata,
)
from dsdiff.system import atomic, output_checks
from dsdiff.system.console import ProgressCallback, ignore_progress
from dsdiff.system.device import has_bf16

CPU = torch.device("cpu")
OUTPUT_PATTERN = re.compile(r"(condition|denoise)\.(onnx|onnx\.data|xml|bin|pt2)|export\.json|config\.yaml|README\.md")


def export_model(
    model: Model,
    folder: Path,
    format_name: str,
    *,
    precision: str = "auto",
    case: Case | None = None,
    progress: ProgressCallback = ignore_progress,
) -> ExportMetadata:
    """Export a model, all of it or nothing; an export that differs from the network is not kept.

    Args:
        model: Model to export.
        folder: Folder to write.
        format_name: A key of `FORMATS`.
        precision: Precision in which it will run; "auto" is bf16 if the format and this machine have it.
        case: Case on whose slices export and network are compared; by default the bundled phantom.
        progress: Called before each stage, with its name as `detail`.

    Returns:
        Metadata of the export.

    Raises:
        ConfigError: Format, precision and machine do not go together, or a package is not installed.
        ModelError: The network cannot be exported.
        OutputError: The folder cannot be written, or holds other files.
        DsdiffError: Export and network differ.
    """
    export_format = _find_format(format_name)
    precision = _choose_precision(format_name, precision)
    network = _require_network(model)
    check_output_folder(folder)
    batches = select_test_slices(case or bundled_phantom(), model)

    progress("exporting", 0.0, 1.0, "tracing")
    data = model.config.data
    traced = graphs.trace_graphs(network, len(data.contrasts), data.context_slices)
    metadata = ExportMetadata(
        format=format_name,
        precision=precision,
        multiple=model.multiple,
        condition_outputs=traced[graphs.CONDITION].outputs if graphs.CONDITION in traced else (),
        source=SourceModel(name=model.name, hash=model.hash),
        opset=None if export_format.can_run_code else OPSET,
        versions={"dsdiff": __version__} | {name: version(name) for name in ("torch", *export_format.packages)},
        model=model.metadata,
    )

    with atomic.atomic_dir(folder) as tmp_folder:
        progress("exporting", 0.3, 1.0, "writing")
        for name, file in graph_files(tmp_folder, metadata).items():
            export_format.write(traced[name], file)
        config = dump_config(strip_local_paths(model.config))
        (tmp_folder / checkpoint.CONFIG_FILE).write_text(config, encoding="utf-8")
        write_metadata(tmp_folder, metadata)

        progress("exporting", 0.8, 1.0, "comparing")
        parity = check_parity(model, network, tmp_folder, metadata, batches)
        metadata = metadata.model_copy(update={"parity": parity})
        write_metadata(tmp_folder, metadata)
        (tmp_folder / checkpoint.CARD_FILE).write_text(model_card(metadata), encoding="utf-8")

    return metadata


def check_output_folder(folder: Path) -> None:
    """Check that a folder can be replaced by an export.

    Args:
        folder: Folder to write.

    Raises:
        OutputError: It holds a file that no export wrote.
    """
    output_checks.check_replaceable(folder, METADATA_FILE, FILE_KIND, OUTPUT_PATTERN)


def _find_format(name: str) -> ExportFormat:
    if name not in FORMATS:
        raise ConfigError(f"format '{name}' is unknown; choose one of: {', '.join(FORMATS)}")

    FORMATS[name].check_installed(*FORMATS[name].packages)
    return FORMATS[name]


def _choose_precision(format_name: str, requested: str) -> str:
    available = [precision for precision in FORMATS[format_name].precisions if precision == "fp32" or has_bf16(CPU)]
    if requested == "auto":
        return available[-1]

    if requested not in available:
        raise ConfigError(f"precision '{requested}' cannot run here; {format_name} takes: auto, {', '.join(available)}")
    return requested


def _require_network(model: Model) -> Network:
    if isinstance(model.network, ExportedNetwork):
        raise ModelError(f"'{model.name}' is exported already; give the model folder that it was exported from")

    return model.network


def openvino_cached(model: Model) -> Model:
    """Load a model in OpenVINO; the export is kept in the user's cache folder.

    Args:
        model: Model on the CPU.

    Returns:
        The same model, computed by OpenVINO.

    Raises:
        ConfigError: The model is not on the CPU, or OpenVINO is not installed.
        ModelError: The network cannot be exported.
    """
    _require_network(model)
    if model.device.type != "cpu":
        raise ConfigError(f"openvino runs on the CPU here, not on {model.device}; give --device cpu")

    folder = openvino_cache_path(model)
    with atomic.blocking_lock(folder):
        if not is_exported(folder):
            export_model(model, folder, "openvino")
        return replace(load_model(folder, CPU), name=model.name, hash=model.hash)


def openvino_cache_path(model: Model) -> Path:
    """Name the cache folder of a model.

    Args:
        model: Model to export.

    Returns:
        A folder for this model, precision and version of OpenVINO and dsdiff.
    """
    export_format = _find_format("openvino")
    precision = _choose_precision("openvino", "auto")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")

    return cache / "dsdiff" / "openvino" / f"{model.hash}-{precision}-{version(export_format.runtime)}-{__version__}"


def model_card(metadata: ExportMetadata) -> str:
    """Write the model card of an export.

    Args:
        metadata: Metadata of the export.

    Returns:
        Markdown.
    """
    suffix = FORMATS[metadata.format].suffix
    files = "\n".join(f"- `{name}{suffix}`" for name in graph_files(Path(), metadata))
    parity = "\n".join(
        f"- {precision}: largest difference {agreement.difference:.1e} of the largest value, "
        f"PSNR {agreement.psnr:.1f} dB"
        for precision, agreement in metadata.parity.items()
    )
    return f"""# {metadata.source.name} as {metadata.format}

Exported by dsdiff {__version__} from the model '{metadata.source.name}' ({metadata.source.hash}).
For research use, not for diagnosis. The model card of that model applies.

{files}

`dsdiff synth PATIENT --model FOLDER` runs it, in {metadata.precision} if the machine supports that. In other programs:
`condition`, if there is one, maps sources (b, s, d, h, w) and present (b, s) to the tensors that
`{METADATA_FILE}` lists as `condition_outputs`; run it once a slice. `denoise` maps x_t (b, 1, h, w), t (b),
sources, present and those tensors to the prediction (b, c, h, w). All are float32, except present (bool). Sources are
robust z-scores. Any batch size works; h and w must be multiples of {metadata.multiple}.

Agreement with the source model on slices of one case:

{parity}
"""
