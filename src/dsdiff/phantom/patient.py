"""One simulated patient: a deformed head with lesions, contrast agent and tissues, ready to be scanned."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from dsdiff.phantom import anatomy, lesion_tissue, lesions, tissues, vessels
from dsdiff.phantom.mri_signal import PulseSequence
from dsdiff.phantom.random_fields import sample_noise_volume

COARSE_STRIDE = 4
"""Stride in voxels of the coarse grid on which lesions are placed."""

AGENT_CONCENTRATIONS = {"vessel": (0.6, 1.6), "plexus": (0.25, 0.8), "dura": (0.15, 0.9)}
"""Range of concentrations in mM, some minutes after 0.1 mmol/kg."""

Box = tuple[slice, ...]


@dataclass(frozen=True)
class SimulatedPatient:
    """A patient on the scanner's table, on the 1 mm grid of the box around the brain.

    Attributes:
        tissues: Relaxation of each tissue.
        fractions: Fraction of each tissue in every voxel.
        agent: Concentration of contrast agent in mM, for the tissues that take it up.
        relaxivity: r1 and r2 of the contrast agent in 1/(mM s).
        texture: Relative deviation of T1 and T2 in every voxel.
        brain: Mask.
    """

    tissues: dict[str, tissues.Tissue]
    fractions: dict[str, np.ndarray]
    agent: dict[str, np.ndarray | float]
    relaxivity: tuple[float, float]
    texture: np.ndarray
    brain: np.ndarray

    def tissue_signal(self, sequence: PulseSequence) -> np.ndarray:
        """Compute the signal without contrast agent. The texture varies it to first order.

        Args:
            sequence: The pulse sequence.

        Returns:
            (x, y, z) float32.
        """
        step = 1.05
        total = np.zeros(self.brain.shape, np.float32)
        for name, fraction in self.fractions.items():
            tissue = self.tissues[name]
            mean = sequence.signal(tissue.pd, tissue.t1, tissue.t2)
            slope = (sequence.signal(tissue.pd, tissue.t1 * step, tissue.t2 * step) - mean) / (step - 1)
            flow = sequence.flow_attenuation() if name == "vessel" else 1.0
            total += np.float32(flow) * fraction * (np.float32(mean) + np.float32(slope) * self.texture)
        return total

    def agent_signal(self, sequence: PulseSequence) -> np.ndarray:
        """Compute the signal that the contrast agent adds to `tissue_signal`.

        Args:
            sequence: The pulse sequence.

        Returns:
            (x, y, z) float32.
        """
        total = np.zeros(self.brain.shape, np.float32)
        for name, concentration in self.agent.items():
            tissue = self.tissues[name]
            t1, t2 = tissues.relaxation_with_agent(tissue, concentration, *self.relaxivity)
            increase = sequence.signal(tissue.pd, t1, t2) - sequence.signal(tissue.pd, tissue.t1, tissue.t2)
            flow = sequence.flow_attenuation() if name == "vessel" else 1.0
            total += flow * self.fractions[name] * increase
        return total


def sample_patient(
    rng: np.random.Generator, shape: Sequence[int], origin: np.ndarray
) -> tuple[SimulatedPatient, Box, dict]:
    """Sample a random patient.

    Args:
        rng: Random generator.
        shape: Size of the simulated window in voxels.
        origin: First voxel of the window on the 240 x 240 x 155 grid.

    Returns:
        The patient, the box of the window that holds the brain, and all values that were sampled, ready for JSON.
    """
    head = anatomy.sample_head(rng, shape, origin)
    kind = lesions.sample_kind(rng)
    plan, box = _place_lesions(head, kind, shape, rng)
    coordinates, ventricle_size = _displace_tissue(head, plan, box, rng)

    tissue = anatomy.sample_healthy_tissue(head, coordinates, rng)
    side = (coordinates[0] - np.float32(anatomy.TEMPLATE_CENTER[0])) / np.float32(abs(head.matrix[0, 0]))
    lesion, uptake = lesion_tissue.paint_lesions(plan, tissue, side, rng)

    field = float(rng.choice([1.5, 3.0]))
    mask_margin = float(rng.uniform(-1.8, 0.4))
    rim = 0.8 * sample_noise_volume(rng, side.shape, 14.0)
    brain = anatomy.largest_component(tissue["depth"] + rim + mask_margin > 0)
    sites = vessels.sample_agent_sites(rng)
    fractions = lesion_tissue.compose_fractions(tissue, sites, lesion, coordinates, rng)

    relaxation = tissues.sample_tissues(field, rng)
    solid = relaxation["glioma" if kind == "non_enhancing" else "solid"]
    relaxation |= {"enhancing": relaxation["solid"], "solid": solid}
    concentrations = {name: float(rng.uniform(*limits)) for name, limits in AGENT_CONCENTRATIONS.items()}
    min_r1, max_r1, r2 = tissues.RELAXIVITY[field]
    relaxivity = (float(rng.uniform(min_r1, max_r1)), r2)
    texture = lesion_tissue.sample_texture(fractions, rng)

    agent = concentrations | {"enhancing": uptake}
    patient = SimulatedPatient(relaxation, fractions, agent, relaxivity, texture, brain)
    parameters = {
        "field_tesla": field,
        "lesion": plan.parameters(),
        "head": head.parameters,
        "ventricles": ventricle_size,
        "mask_margin_mm": mask_margin,
        "agent_mM": concentrations,
        "relaxivity_per_mM_s": list(relaxivity),
        "tissues": {name: asdict(values) for name, values in relaxation.items()},
    }
    return patient, box, parameters


def _place_lesions(
    head: anatomy.Head, kind: str, shape: Sequence[int], rng: np.random.Generator
) -> tuple[lesions.LesionPlan, Box]:
    """Sample the lesions on a coarse grid. Return them relative to the box around the brain, and that box."""
    coordinates = head.template_coordinates([np.arange(0, n, COARSE_STRIDE, dtype=np.float32) for n in shape])
    template = anatomy.load_template()
    depth = anatomy.interpolate(template.depth, coordinates, outside=-20.0)
    white = anatomy.interpolate(template.white, coordinates)
    plan = lesions.sample_plan(kind, white, depth, rng, COARSE_STRIDE)

    inside = np.argwhere(depth > -4) * COARSE_STRIDE
    low = (inside.min(0) - COARSE_STRIDE).clip(0)
    high = np.minimum(inside.max(0) + COARSE_STRIDE + 1, shape)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return plan.relative_to(low), box


def _displace_tissue(
    head: anatomy.Head, plan: lesions.LesionPlan, box: Box, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Return template coordinates of the box with random ventricles and mass effect, and the ventricles' size."""
    axes = [np.arange(b.start, b.stop, dtype=np.float32) for b in box]
    coordinates = head.template_coordinates(axes)
    taper = (anatomy.interpolate(anatomy.load_template().depth, coordinates) / 18).clip(0, 1)
    box_axes = [axis - axis[0] for axis in axes]
    ventricle_size = float(rng.uniform(-0.25, 0.5))

    displacement = np.zeros_like(coordinates)
    for side in (-1, 1):  # the bodies of the lateral ventricles
        ventricle = anatomy.mni_to_voxels(np.array([side * 14, -14, 18]))
        distance = ((coordinates - ventricle[:, None, None, None]) ** 2).sum(0)
        center = np.array(np.unravel_index(distance.argmin(), taper.shape))
        displacement += head.push_displacement(box_axes, center, 24.0, ventricle_size, taper)
    for focus in plan.foci:
        strength = plan.mass_effect * (1.0 if focus.radius > 5 else 0.5)
        reach_mm = 1.6 * focus.radius + 4
        displacement += head.push_displacement(box_axes, np.array(focus.center), reach_mm, strength, taper)
    return coordinates + displacement, ventricle_size
