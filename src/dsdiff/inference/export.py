"""Write a model as graphs for another runtime, and try them against the network before they are kept."""

import math
import os
import re
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch

from dsdiff import __version__
from dsdiff.conditioning.network import Network
from dsdiff.config import run as configs
from dsdiff.errors import ConfigError, DsdiffError, ModelError
from dsdiff.inference import model as models
from dsdiff.inference.model import Model
from dsdiff.io import cases
from dsdiff.io.cases import Case
from dsdiff.model import checkpoint
from dsdiff.preprocessing import normalize, slices
from dsdiff.preprocessing.slices import SliceBatch
from dsdiff.qc import lineage
from dsdiff.runtimes import graphs
from dsdiff.runtimes import network as exported
from dsdiff.runtimes.formats import FORMATS, OPSET, Format
from dsdiff.runtimes.network import Agreement, ExportedNetwork, Facts, Origin
from dsdiff.system import atomic
from dsdiff.system import device as devices

CPU = torch.device("cpu")
OURS = re.compile(r"(condition|denoise)\.(onnx|onnx\.data|xml|bin|pt2)|export\.json|config\.yaml|README\.md")
DIFFERENCE = 1e-4  # at most, of fp32, as a share of the largest value
PSNR = 45.0  # dB at least, of bf16


def export(
    model: Model,
    out: Path,
    to: str,
    *,
    precision: str = "auto",
    check: Case | None = None,
    progress: Callable[[str, float], None] = lambda doing, share: None,
) -> Facts:
    """Write a model in a format, whole or not at all; it is kept only where it agrees with the network.

    precision: that in which it will run (auto: bf16 where format and machine have it). check: the case on two of whose
    slices both are tried; by default the bundled phantom. `progress` is told what is done and the share done before.

    Raises `ConfigError` for what does not go together or is not installed, `ModelError` for a network that cannot be
    exported, `OutputError` for a place that is not ours, `DsdiffError` where export and network differ.
    """
    kind, taken = _format(to), _precision(to, precision)
    network = _network(model)
    check_place(out)
    batches = check_slices(check or cases.bundled(), model)
    progress("tracing", 0.0)
    data = model.config.data
    traced = graphs.trace(network, len(data.contrasts), data.context_slices)
    added = traced[graphs.CONDITION].outputs if graphs.CONDITION in traced else ()
    facts = Facts(
        format=to,
        precision=taken,
        multiple=model.multiple,
        added=added,
        source=Origin(name=model.name, hash=model.hash),
        opset=None if kind.runs_code else OPSET,
        familiar=model.familiar.dump() if model.familiar else "",
        nearest=model.nearest.dump() if model.nearest else "",
        known=model.known.dump() if model.known and not model.nearest else "",
        ancestors=lineage.dump(model.ancestors),
        refinement=model.refinement.dump() if model.refinement else "",
        calibration=model.calibration,
        versions={"dsdiff": __version__} | {name: version(name) for name in ("torch", *kind.packages)},
    )
    with atomic.whole(out) as folder:
        progress("writing", 0.3)
        for name, file in exported.graph_files(folder, facts).items():
            kind.write(traced[name], file)
        (folder / checkpoint.CONFIG).write_text(configs.dump(configs.portable(model.config)), encoding="utf-8")
        exported.write_facts(folder, facts)
        progress("comparing", 0.8)
        facts = facts.model_copy(update={"check": _compared(model, network, folder, facts, batches)})
        exported.write_facts(folder, facts)
        (folder / checkpoint.CARD).write_text(card(facts), encoding="utf-8")
    return facts


def check_place(out: Path) -> None:
    """Raise `OutputError` where the place holds anything that no export wrote."""
    atomic.refuse_foreign(out, exported.FACTS, exported.WHAT, OURS)


def _format(to: str) -> Format:
    if to not in FORMATS:
        raise ConfigError(f"format '{to}' is unknown; there are: {', '.join(FORMATS)}")
    FORMATS[to].check_installed(*FORMATS[to].packages)
    return FORMATS[to]


def _precision(to: str, asked: str) -> str:
    there = [one for one in FORMATS[to].precisions if one == "fp32" or devices.has_bf16(CPU)]
    if asked != "auto" and asked not in there:
        raise ConfigError(f"precision '{asked}' cannot be tried here; {to} takes: auto, {', '.join(there)}")
    return there[-1] if asked == "auto" else asked


def _network(model: Model) -> Network:
    if isinstance(model.network, ExportedNetwork):
        raise ModelError(f"'{model.name}' is exported already; give the model folder that it was made from")
    return model.network


def check_slices(case: Case, model: Model) -> tuple[SliceBatch, SliceBatch]:
    """Two largest slices of a case, and one of the smallest, which lacks what the model's cases may lack."""
    data = model.config.data
    volumes = cases.load(case, model.wanted(case.named))
    prepared = normalize.apply(volumes, data.source_contrast)
    batches = slices.batches(prepared, data.contrasts, data.context_slices, model.multiple, 2)
    first = next(batches)
    last = deque(batches, maxlen=1).pop()
    absent = tuple(i for i, contrast in enumerate(data.contrasts) if contrast in data.optional)
    return first, replace(last, boxes=last.boxes[:1], sources=last.sources[:1], brain=last.brain[:1], absent=absent)


def _compared(
    model: Model, network: Network, folder: Path, facts: Facts, batches: tuple[SliceBatch, ...]
) -> dict[str, Agreement]:
    """How the graphs just written agree with the network, in fp32 and in the precision that they will run in.

    Raises `DsdiffError` where they do not.
    """
    exported.allow(folder)
    found: dict[str, Agreement] = {}
    for precision in dict.fromkeys(("fp32", facts.precision)):
        other = exported.load(folder, model.config.conditioning.fusion, CPU, precision)
        worst = Agreement.worst([agreement(network, other, model, batch) for batch in batches])
        if worst.difference > DIFFERENCE if precision == "fp32" else worst.psnr < PSNR:
            more = "" if precision == "fp32" else "; --precision fp32 is exact"
            raise DsdiffError(
                f"{facts.format} in {precision} is not the network: they differ by up to {worst.difference:.1e} of the "
                f"largest value, PSNR {worst.psnr:.1f} dB; {DIFFERENCE:.0e} at most is allowed in fp32, {PSNR:.0f} dB "
                f"at least in bf16; nothing was written{more}"
            )
        found[precision] = worst
    return found


@torch.inference_mode()
def agreement(network: Network, other: ExportedNetwork, model: Model, batch: SliceBatch) -> Agreement:
    """How near another runtime's prediction is to the network's in fp32, on noisy slices at times from 1 to 0.5."""
    data = model.config.data
    sources = torch.from_numpy(batch.sources).clone()
    present = torch.ones(sources.shape[:2], dtype=torch.bool)
    present[:, list(batch.absent)], sources[:, list(batch.absent)] = False, torch.nan
    time = torch.linspace(1, 0.5, len(sources), dtype=torch.float64)
    start = sources[:, data.contrasts.index(data.source_contrast), data.context_slices // 2, None]  # b 1 h w
    x_t = start + torch.randn(start.shape, generator=torch.Generator().manual_seed(0))
    t = model.process.timestep(time).float()
    wanted, got = (one(x_t, t, one.condition(sources, present)).value for one in (network, other))
    if not wanted.any():
        raise ModelError(f"'{model.name}' answers zero everywhere, as before training: there is nothing to compare")
    largest, error = wanted.abs().max().item(), got - wanted
    share = error.square().mean().sqrt().item() / (wanted.max() - wanted.min()).item()
    return Agreement(difference=error.abs().max().item() / largest, psnr=-20 * math.log10(max(share, 1e-10)))


def converted(model: Model) -> Model:
    """A model run by OpenVINO: exported once to the user's cache folder, and taken from there ever after.

    Raises what `export` raises, and `ConfigError` for a model that is not on the CPU.
    """
    _network(model)
    if model.device.type != "cpu":
        raise ConfigError(f"openvino runs on the CPU here, not on {model.device}; give --device cpu")
    place = cache_place(model)
    with atomic.waiting(place):
        if not exported.is_one(place):
            export(model, place, "openvino")
        return replace(models.load(place, CPU), name=model.name, hash=model.hash)


def cache_place(model: Model) -> Path:
    """Where `converted` keeps a model: one folder for each model, precision and version."""
    kind, precision = _format("openvino"), _precision("openvino", "auto")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "dsdiff" / "openvino" / f"{model.hash}-{precision}-{version(kind.runtime)}-{__version__}"


def card(facts: Facts) -> str:
    """The README of an exported model."""
    kind = FORMATS[facts.format]
    named = "\n".join(f"- `{name}{kind.suffix}`" for name in exported.graph_files(Path(), facts))
    near = "\n".join(
        f"- {precision}: largest difference {one.difference:.1e} of the largest value, PSNR {one.psnr:.1f} dB"
        for precision, one in facts.check.items()
    )
    return f"""# {facts.source.name} as {facts.format}

Exported by dsdiff {__version__} from the model '{facts.source.name}' ({facts.source.hash}).
Research use, not for diagnosis: all that its model card says holds here.

{named}

`dsdiff synth PATIENT --model FOLDER` runs it, in {facts.precision} where the machine computes that. Elsewhere:
`condition`, where there is one, makes of sources (b, s, d, h, w) and present (b, s) what `{exported.FACTS}` lists as
`added`, once per slice; `denoise` makes of x_t (b, 1, h, w), t (b), sources, present and these the prediction
(b, c, h, w). All are float32 but present (bool); sources are robust z-scores. Any batch; h and w are multiples of
{facts.multiple}.

Beside the network it was made from, on slices of a case, both in one process:

{near}
"""
