"""Patients simulated from tissue maps, so that there is data without patients, and a T1ce whose enhancement is known.

A head is bent out of the ICBM maps (`anatomy`), given lesions and an agent (`lesions`) and scanned (`signal`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy import ndimage

from dsdiff.errors import InputError
from dsdiff.phantom import anatomy, lesions, mri_signal
from dsdiff.volume import Volume

CONTRASTS = ("t1", "t1ce", "t2", "flair")

SOURCES = ("t1", "t2", "flair")

TARGET_STYLES = ("same", "own")

GRID = (240, 240, 155)
"""The full grid, BraTS': 1 mm, LPS. A smaller `shape` is its middle."""

AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])

COARSE = 4
"""Stride of the grid on which lesions are planned."""

LABELS = {"necrosis": 1, "haemorrhage": 1, "solid": 2, "oedema": 2, "enhancing": 4}

GENERATION = 3
"""Raised when the same seed comes to give another patient: phantoms of two generations are not to be mixed."""

AGENT_MM = {"vessel": (0.6, 1.6), "plexus": (0.25, 0.8), "dura": (0.15, 0.9)}
"""Range of concentrations (mM) some minutes after 0.1 mmol/kg."""


@dataclass(frozen=True)
class Phantom:
    """One simulated patient.

    volumes: "t1", "t1ce", "t2", "flair": float32 whole numbers, exactly 0 outside the brain and at least 1 in it.
    seg: uint8 BraTS labels: 0, 1 necrotic core, 2 oedema and non-enhancing tumour, 4 enhancing tumour.
    enhancement: float32, the noise-free signal that the agent adds, in T1ce's units; 0 where there is no agent.
    parameters: everything drawn at random, JSON-able.
    """

    case: str
    volumes: dict[str, Volume]
    seg: Volume
    enhancement: Volume
    parameters: dict


@dataclass(frozen=True)
class Patient:
    """What lies on the scanner's table, on the 1 mm grid of the brain's box.

    tissues, fractions: what each tissue is and its share of every voxel; agent: mM in the tissues that take it up;
    texture: relative deviation of T1 and T2; brain: mask; relaxivity: r1 and r2.
    """

    tissues: dict[str, mri_signal.Tissue]
    fractions: dict[str, np.ndarray]
    agent: dict[str, np.ndarray | float]
    relaxivity: tuple[float, float]
    texture: np.ndarray
    brain: np.ndarray


def case_name(seed: int) -> str:
    """What the patient of `seed` is called."""
    return f"phantom-{seed:04d}"


def simulate(
    seed: int, *, target_style: str = "same", noise: float | int = 1.0, shape: Sequence[int] = (240, 240, 155)
) -> Phantom:
    """A random patient; the same for the same seed.

    target_style: "same" scans T1ce exactly as T1, so that T1ce - T1 is `enhancement` plus noise; "own" draws T1ce's
    sequence, bias, gain and geometry anew, as hospitals do. noise: multiplies the noise's standard deviation.
    shape: a window in the middle of the 240 x 240 x 155 grid, same voxels.
    """
    if target_style not in TARGET_STYLES:
        raise InputError(f"target_style is {target_style!r}, must be one of {', '.join(TARGET_STYLES)}")
    if len(shape) != 3 or any(not 48 <= n <= full for n, full in zip(shape, GRID, strict=True)):
        raise InputError(f"shape is {tuple(shape)}, must be three numbers from 48 to {GRID}")
    rng = np.random.default_rng(seed)
    origin = np.array([(full - n) // 2 for n, full in zip(shape, GRID, strict=True)])
    patient, box, drawn = _draw_patient(rng, shape, origin)
    scans = _draw_scans(rng, patient, target_style, noise)
    images, enhancement = _scan_all(patient, scans, rng)
    seg = _label(patient.fractions, patient.brain)

    affine = AFFINE.copy()
    affine[:3, 3] += AFFINE[:3, :3] @ origin
    volumes = {name: Volume(_on_grid(images[name], box, shape), affine) for name in CONTRASTS}
    parameters = {
        "generation": GENERATION,
        "seed": int(seed),
        "target_style": target_style,
        "noise": float(noise),
        "shape": [int(n) for n in shape],
    }
    parameters |= drawn | {"scans": {name: _scan_parameters(scan) for name, scan in scans.items()}}
    return Phantom(
        case=case_name(seed),
        volumes=volumes,
        seg=Volume(_on_grid(seg, box, shape), affine),
        enhancement=Volume(_on_grid(enhancement, box, shape), affine),
        parameters=parameters,
    )


def _draw_patient(
    rng: np.random.Generator, shape: Sequence[int], origin: np.ndarray
) -> tuple[Patient, tuple[slice, ...], dict]:
    """A random patient, the box of the grid that holds the brain, and what was drawn."""
    head = anatomy.draw_head(rng, shape, origin)
    coarse = [np.arange(0, n, COARSE, dtype=np.float32) for n in shape]
    where = head.where(coarse)
    depth = anatomy.sample(anatomy.template().depth, where, outside=-20.0)
    white = anatomy.sample(anatomy.template().white, where)
    kind = lesions.draw_kind(rng)
    plan = lesions.draw_plan(kind, white, depth, rng, COARSE)

    inside = np.argwhere(depth > -4) * COARSE
    low, high = (inside.min(0) - COARSE).clip(0), np.minimum(inside.max(0) + COARSE + 1, shape)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    plan = _moved(plan, low)
    where, ventricles = _displaced(head, plan, box, rng)
    tissue = anatomy.healthy_tissue(head, where, rng)
    side = (where[0] - np.float32(anatomy.TEMPLATE_CENTRE[0])) / np.float32(abs(head.matrix[0, 0]))
    lesion, uptake = lesions.paint(plan, tissue, side, rng)
    field = float(rng.choice([1.5, 3.0]))
    margin = float(rng.uniform(-1.8, 0.4))
    rim = 0.8 * anatomy.noise(rng, side.shape, 14.0)
    brain = _largest_part(tissue["depth"] + rim + margin > 0)
    fractions = lesions.compose(tissue, anatomy.agent_sites(rng), lesion, where, rng)
    tissues = mri_signal.draw_tissues(field, rng)
    tissues |= {"enhancing": tissues["solid"], "solid": tissues["glioma" if kind == "non_enhancing" else "solid"]}
    amounts = {name: float(rng.uniform(*span)) for name, span in AGENT_MM.items()}
    low_r1, high_r1, r2 = mri_signal.RELAXIVITY[field]
    relaxivity = (float(rng.uniform(low_r1, high_r1)), r2)
    patient = Patient(
        tissues, fractions, amounts | {"enhancing": uptake}, relaxivity, lesions.texture(fractions, rng), brain
    )
    drawn = {
        "field_tesla": field,
        "lesion": plan.parameters(),
        "head": head.parameters,
        "ventricles": ventricles,
        "mask_margin_mm": margin,
        "agent_mM": amounts,
        "relaxivity_per_mM_s": list(relaxivity),
        "tissues": {name: asdict(tissue) for name, tissue in patient.tissues.items()},
    }
    return patient, box, drawn


def _largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask."""
    parts, _ = ndimage.label(mask)
    return np.asarray(parts == np.bincount(parts[mask]).argmax())


def _moved(plan: lesions.Plan, low: np.ndarray) -> lesions.Plan:
    """`plan` with its centres counted from the box's first voxel."""
    foci = [replace(f, centre=tuple((np.array(f.centre) - low).tolist())) for f in plan.foci]
    return replace(plan, foci=foci)


def _displaced(
    head: anatomy.Head, plan: lesions.Plan, box: tuple[slice, ...], rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Template coordinates of the box with ventricles of a random size and the tumours' mass effect; and that size."""
    axes = [np.arange(b.start, b.stop, dtype=np.float32) for b in box]
    where = head.where(axes)
    taper = (anatomy.sample(anatomy.template().depth, where) / 18).clip(0, 1)
    local = [a - a[0] for a in axes]
    size = float(rng.uniform(-0.25, 0.5))
    shift = np.zeros_like(where)
    for side in (-1, 1):  # the bodies of the lateral ventricles
        target = anatomy.millimetres(np.array([side * 14, -14, 18]))
        centre = np.array(np.unravel_index(((where - target[:, None, None, None]) ** 2).sum(0).argmin(), taper.shape))
        shift += head.push(local, centre, 24.0, size, taper)
    for focus in plan.foci:
        strength = plan.push * (1.0 if focus.radius > 5 else 0.5)
        shift += head.push(local, np.array(focus.centre), 1.6 * focus.radius + 4, strength, taper)
    return where + shift, size


def _draw_scans(
    rng: np.random.Generator, patient: Patient, target_style: str, noise: float
) -> dict[str, mri_signal.Scan]:
    """Scanner settings of the four contrasts; T1ce's are T1's own unless `target_style` is "own"."""
    shape = patient.brain.shape

    def draw(
        sequence: mri_signal.Sequence, thick_share: float, misregistration: float, noisiest: float = 0.05
    ) -> mri_signal.Scan:
        sampling = mri_signal.draw_sampling(rng, thick_share, misregistration)
        bias = np.exp(rng.uniform(0.03, 0.11) * anatomy.noise(rng, shape, 70.0)).astype(np.float32)
        # Thick slices have more signal per voxel.
        sigma = float(rng.uniform(0.3, 1.0)) * noisiest / (1 + 0.15 * (sampling.thickness - 1))
        return mri_signal.Scan(
            sequence, sampling, bias, float(np.exp(rng.uniform(np.log(500), np.log(1500)))), noise * sigma
        )

    scans = {
        "t1": draw(mri_signal.draw_t1_sequence(rng), 0.5, 0.0),
        "t2": draw(mri_signal.draw_t2_sequence(rng), 0.6, 1.0),
        "flair": draw(mri_signal.draw_flair_sequence(patient.tissues["csf"].t1, rng), 0.6, 1.0, noisiest=0.09),
    }
    scans["t1ce"] = scans["t1"] if target_style == "same" else draw(mri_signal.draw_t1_sequence(rng), 0.35, 1.0)
    return scans


def _scan_parameters(scan: mri_signal.Scan) -> dict:
    """JSON-able settings of one scan."""
    return {
        "sequence": asdict(scan.sequence),
        "sampling": asdict(scan.sampling),
        "bias_spread": float(scan.bias.std()),
        "median": scan.level,
        "noise_relative": scan.noise,
    }


def _scan_all(
    patient: Patient, scans: dict[str, mri_signal.Scan], rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The four images and the true enhancement, whole numbers, on the brain's box."""
    images = {
        name: mri_signal.image(_plain_signal(patient, scans[name]), None, scans[name], patient.brain, rng)[0]
        for name in SOURCES
    }
    scan = scans["t1ce"]
    images["t1ce"], enhancement = mri_signal.image(
        _plain_signal(patient, scan), _agent_signal(patient, scan), scan, patient.brain, rng
    )
    return images, enhancement


def _plain_signal(patient: Patient, scan: mri_signal.Scan) -> np.ndarray:
    """Signal without agent (x, y, z): every tissue's own, by its share, varied to first order by the texture."""
    total = np.zeros(patient.brain.shape, np.float32)
    for name, share in patient.fractions.items():
        tissue, step = patient.tissues[name], 1.05
        plain = scan.sequence.signal(tissue.pd, tissue.t1, tissue.t2)
        slope = (scan.sequence.signal(tissue.pd, tissue.t1 * step, tissue.t2 * step) - plain) / (step - 1)
        flow = scan.sequence.flow() if name == "vessel" else 1.0
        total += np.float32(flow) * share * (np.float32(plain) + np.float32(slope) * patient.texture)
    return total


def _agent_signal(patient: Patient, scan: mri_signal.Scan) -> np.ndarray:
    """What the agent adds to `_plain_signal`."""
    total = np.zeros(patient.brain.shape, np.float32)
    for name, concentration in patient.agent.items():
        tissue = patient.tissues[name]
        t1, t2 = mri_signal.with_agent(tissue, concentration, *patient.relaxivity)
        gain = scan.sequence.signal(tissue.pd, t1, t2) - scan.sequence.signal(tissue.pd, tissue.t1, tissue.t2)
        total += (scan.sequence.flow() if name == "vessel" else 1.0) * patient.fractions[name] * gain
    return total


def _label(fractions: dict[str, np.ndarray], brain: np.ndarray) -> np.ndarray:
    """BraTS labels (uint8) where lesion fills at least half a voxel: the label with the largest share."""
    shares = {label: sum(fractions[n] for n, at in LABELS.items() if at == label) for label in (1, 2, 4)}
    stacked = np.stack([np.asarray(share) for share in shares.values()])
    label = np.array(list(shares), np.uint8)[stacked.argmax(0)]
    return np.where((stacked.sum(0) >= 0.5) & brain, label, 0).astype(np.uint8)


def _on_grid(image: np.ndarray, box: tuple[slice, ...], shape: Sequence[int]) -> np.ndarray:
    """`image` of the brain's box on the whole grid, 0 elsewhere; float32 unless it holds labels."""
    whole = np.zeros(tuple(shape), np.uint8 if image.dtype == np.uint8 else np.float32)
    whole[box] = image
    return whole
