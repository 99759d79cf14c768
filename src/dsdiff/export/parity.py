"""Numerical comparison of an export with its network, on slices of one case."""

import math
from collections import deque
from dataclasses import replace
from pathlib import Path

import torch

from dsdiff.conditioning.network import Network
from dsdiff.errors import DsdiffError, ModelError
from dsdiff.inference.model import Model
from dsdiff.io.cases import Case, load_volumes
from dsdiff.preprocessing import normalize, slices
from dsdiff.preprocessing.slices import SliceBatch
from dsdiff.runtimes.network import ExportedNetwork, ExportMetadata, NumericalParity, load_network, trust_folder

CPU = torch.device("cpu")
MAX_DIFFERENCE = 1e-4  # in fp32; a share of the largest value
MIN_PSNR = 45.0  # dB; in bf16
MIN_ERROR = 1e-10  # a share of the range; limits the PSNR of an exact copy


def select_test_slices(case: Case, model: Model) -> tuple[SliceBatch, SliceBatch]:
    """Select slices to compare an export on.

    Args:
        case: Any case.
        model: Model to export.

    Returns:
        The two largest slices, and one of the smallest without the optional contrasts.
    """
    data = model.config.data
    volumes = load_volumes(case, model.contrasts_to_read(case.contrasts))
    preprocessed = normalize.preprocess(volumes, data.source_contrast).case

    batches = slices.make_batches(preprocessed, data.contrasts, data.context_slices, model.multiple, 2)
    largest = next(batches)
    smallest = deque(batches, maxlen=1).pop()
    optional = tuple(index for index, contrast in enumerate(data.contrasts) if contrast in data.optional)

    return largest, replace(
        smallest,
        boxes=smallest.boxes[:1],
        sources=smallest.sources[:1],
        brain=smallest.brain[:1],
        absent=optional,
    )


def check_parity(
    model: Model, network: Network, folder: Path, metadata: ExportMetadata, batches: tuple[SliceBatch, ...]
) -> dict[str, NumericalParity]:
    """Compare written graphs with the network, in fp32 and in the precision that they will run in.

    Args:
        model: Model that was exported.
        network: Its network.
        folder: Folder of the graphs.
        metadata: Metadata of the export.
        batches: Slices to compare on.

    Returns:
        The worst agreement by precision.

    Raises:
        DsdiffError: They differ.
        ModelError: The network predicts zero everywhere, as before training.
    """
    trust_folder(folder)

    worst_by_precision: dict[str, NumericalParity] = {}
    for precision in dict.fromkeys(("fp32", metadata.precision)):
        graph_network = load_network(folder, model.config.conditioning.fusion, CPU, precision)
        worst = NumericalParity.worst([measure_parity(network, graph_network, model, batch) for batch in batches])
        is_different = worst.difference > MAX_DIFFERENCE if precision == "fp32" else worst.psnr < MIN_PSNR
        if is_different:
            advice = "" if precision == "fp32" else "; --precision fp32 is exact"
            raise DsdiffError(
                f"{metadata.format} in {precision} differs from the network by up to {worst.difference:.1e} of the "
                f"largest value, PSNR {worst.psnr:.1f} dB; allowed are {MAX_DIFFERENCE:.0e} in fp32, and "
                f"{MIN_PSNR:.0f} dB or more in bf16; nothing was written{advice}"
            )
        worst_by_precision[precision] = worst

    return worst_by_precision


@torch.inference_mode()
def measure_parity(
    network: Network, exported_network: ExportedNetwork, model: Model, batch: SliceBatch
) -> NumericalParity:
    """Compare the predictions of an exported network with those of the network in fp32.

    Args:
        network: The network.
        exported_network: The same network in another runtime.
        model: Model of the network, for its contrasts and process.
        batch: Slices; they are noised, at times from 1 to 0.5.

    Returns:
        Agreement of the predictions.

    Raises:
        ModelError: The network predicts zero everywhere, as before training.
    """
    data = model.config.data
    sources = torch.from_numpy(batch.sources).clone()
    present = torch.ones(sources.shape[:2], dtype=torch.bool)
    absent = list(batch.absent)
    present[:, absent] = False
    sources[:, absent] = torch.nan

    time = torch.linspace(1, 0.5, len(sources), dtype=torch.float64)
    source_image = sources[:, data.contrasts.index(data.source_contrast), data.context_slices // 2, None]  # b 1 h w
    x_t = source_image + torch.randn(source_image.shape, generator=torch.Generator().manual_seed(0))
    t = model.process.timestep(time).float()

    reference = network(x_t, t, network.condition(sources, present)).value
    prediction = exported_network(x_t, t, exported_network.condition(sources, present)).value
    if not reference.any():
        raise ModelError(f"'{model.name}' predicts zero everywhere, as before training; train it before you export it")

    error = prediction - reference
    relative_rmse = error.square().mean().sqrt().item() / (reference.max() - reference.min()).item()

    return NumericalParity(
        difference=error.abs().max().item() / reference.abs().max().item(),
        psnr=-20 * math.log10(max(relative_rmse, MIN_ERROR)),
    )
