"""Signal equations, tissues and scanner against closed forms."""

import numpy as np
import pytest

from dsdiff.phantom import mri_signal, scanner, tissues
from dsdiff.phantom.mri_signal import PulseSequence
from dsdiff.phantom.scanner import Acquisition
from dsdiff.phantom.tissues import RELAXATION, RELAXIVITY, Tissue

WHITE = RELAXATION[3.0]["white"]


def tissue_signals(sequence: PulseSequence, field: float) -> dict[str, float]:
    table = RELAXATION[field]
    return {name: float(sequence.signal(tissue.pd, tissue.t1, tissue.t2)) for name, tissue in table.items()}


def test_spin_echo_without_decay_and_saturation_is_proton_density() -> None:
    assert mri_signal.spin_echo(0.7, WHITE.t1, WHITE.t2, tr=1e9, te=0.0) == pytest.approx(0.7)


def test_spin_echo_after_one_t1_and_one_t2() -> None:
    assert mri_signal.spin_echo(1.0, 800.0, 80.0, tr=800.0, te=80.0) == pytest.approx((1 - np.exp(-1)) * np.exp(-1))


@pytest.mark.parametrize("field", [1.5, 3.0])
def test_inversion_recovery_has_no_signal_at_the_null_time(field: float) -> None:
    csf = RELAXATION[field]["csf"]
    ti = mri_signal.null_time(csf.t1, tr=9000.0)
    assert mri_signal.inversion_recovery(1.0, csf.t1, csf.t2, tr=9000.0, te=120.0, ti=ti) == pytest.approx(0, abs=1e-12)


def test_null_time_of_a_fully_relaxed_spin_is_t1_ln2() -> None:
    assert mri_signal.null_time(1000.0, tr=1e9) == pytest.approx(1000 * np.log(2))


def test_inversion_recovery_without_inversion_time_is_a_magnitude() -> None:
    assert mri_signal.inversion_recovery(1.0, 1000.0, 100.0, tr=1e9, te=0.0, ti=0.0) == pytest.approx(1.0)


def test_gradient_echo_at_ninety_degrees_is_saturation_recovery() -> None:
    gradient = mri_signal.spoiled_gradient_echo(0.8, 900.0, 70.0, tr=500.0, te=10.0, flip=90.0)
    assert gradient == pytest.approx(mri_signal.spin_echo(0.8, 900.0, 70.0, tr=500.0, te=10.0))


def test_gradient_echo_is_largest_at_the_ernst_angle() -> None:
    best = mri_signal.ernst_angle(1000.0, tr=10.0)
    flips = best + np.array([-1.0, 0.0, 1.0])
    signals = [mri_signal.spoiled_gradient_echo(1.0, 1000.0, 80.0, tr=10.0, te=3.0, flip=flip) for flip in flips]
    assert np.argmax(signals) == 1
    assert best == pytest.approx(np.rad2deg(np.arccos(np.exp(-0.01))))


def test_one_millimolar_adds_the_relaxivity_to_both_rates() -> None:
    t1, t2 = tissues.relaxation_with_agent(Tissue(1000.0, 100.0, 1.0), 1.0, r1=4.0, r2=5.0)
    assert 1000 / t1 == pytest.approx(1.0 + 4.0)
    assert 1000 / t2 == pytest.approx(10.0 + 5.0)


@pytest.mark.parametrize("field", [1.5, 3.0])
def test_contrast_agent_brightens_every_tissue_on_every_t1_sequence(field: float) -> None:
    rng = np.random.default_rng(0)
    sequences = [mri_signal.sample_t1_sequence(rng) for _ in range(20)]
    assert {sequence.name for sequence in sequences} == {"spin_echo", "spoiled_gradient_echo"}
    concentrations = np.linspace(0, 2, 50)
    for sequence in sequences:
        for tissue in RELAXATION[field].values():
            t1, t2 = tissues.relaxation_with_agent(tissue, concentrations, *RELAXIVITY[field][1:])
            increase = sequence.signal(tissue.pd, t1, t2) - sequence.signal(tissue.pd, tissue.t1, tissue.t2)
            assert (increase[1:] > 0).all()


@pytest.mark.parametrize("field", [1.5, 3.0])
def test_healthy_contrast_is_what_a_radiologist_expects(field: float) -> None:
    rng = np.random.default_rng(1)
    csf_t1 = RELAXATION[field]["csf"].t1
    for _ in range(20):
        t1 = tissue_signals(mri_signal.sample_t1_sequence(rng), field)
        t2 = tissue_signals(mri_signal.sample_t2_sequence(rng), field)
        flair = tissue_signals(mri_signal.sample_flair_sequence(csf_t1, rng), field)
        assert t1["white"] > t1["gray"] > t1["csf"]
        assert t2["csf"] > t2["edema"] > t2["gray"] > t2["white"]
        assert flair["edema"] > flair["gray"] > flair["white"] > flair["csf"]


@pytest.mark.parametrize("field", [1.5, 3.0])
def test_solid_tumour_is_a_little_brighter_on_flair_than_its_edema_as_in_patients(field: float) -> None:
    """Edema is mixed with white matter (LesionPlan.edema_fraction), so that the tumour is the brighter on FLAIR."""
    rng = np.random.default_rng(2)
    for _ in range(20):
        flair = tissue_signals(mri_signal.sample_flair_sequence(RELAXATION[field]["csf"].t1, rng), field)
        mixed_edema = 0.85 * flair["edema"] + 0.15 * flair["white"]
        assert mixed_edema < flair["solid"] < 1.2 * flair["edema"]


def test_unknown_sequence_raises() -> None:
    with pytest.raises(ValueError, match="bssfp"):
        PulseSequence("bssfp", tr=5.0, te=2.0).signal(1.0, 1000.0, 100.0)


@pytest.mark.parametrize(("thickness", "axis"), [(1.0, 2), (1.5, 2), (4.0, 2), (5.3, 0)])
def test_thick_slices_do_not_move_a_ramp(thickness: float, axis: int) -> None:
    ramp = np.moveaxis(np.broadcast_to(np.arange(40, dtype=np.float32), (12, 12, 40)), 2, axis)
    acquisition = Acquisition(thickness, axis, blur_mm=0.0, shift_mm=(0.0, 0.0, 0.0), rotation_deg=(0.0, 0.0, 0.0))
    slices = scanner.acquire_slices(np.ascontiguousarray(ramp), acquisition)
    resampled = scanner.resample_to_grid(slices, acquisition, ramp.shape, np.eye(3))
    inner = [slice(None)] * 3
    inner[axis] = slice(8, -8)  # the ends lack neighbors to average
    np.testing.assert_allclose(resampled[tuple(inner)], ramp[tuple(inner)], atol=1e-3)


def test_registration_error_moves_the_image_by_its_shift() -> None:
    ramp = np.broadcast_to(np.arange(20, dtype=np.float32), (20, 20, 20)).copy()
    acquisition = Acquisition(1.0, 2, blur_mm=0.0, shift_mm=(0.0, 0.0, 0.5), rotation_deg=(0.0, 0.0, 0.0))
    shifted = scanner.resample_to_grid(ramp, acquisition, ramp.shape, np.eye(3))
    np.testing.assert_allclose(shifted[..., 1:-1], ramp[..., 1:-1] + 0.5, atol=1e-4)


def test_rician_noise_of_zero_signal_is_rayleigh() -> None:
    noisy = scanner.add_rician_noise(np.zeros((60, 60, 60), np.float32), 2.0, np.random.default_rng(0))
    assert noisy.mean() == pytest.approx(2.0 * np.sqrt(np.pi / 2), rel=0.01)
