import numpy as np
import torch

from dsdiff.comparison import results, throughput
from dsdiff.comparison.plan import Candidate, Method, Run
from dsdiff.comparison.results import Cost, Judged, Row
from dsdiff.config import run as configs
from dsdiff.profiling import cost as profile
from dsdiff.profiling.cost import Measured

PSNR = Judged("psnr_brain", "dB", 0.1)
COST = Cost(1000, 10**9, 0.1, 0.2, None)


def row(name, gain, seeds=3, patients=12, cost=COST, volume=10.0):
    rng = np.random.default_rng(0)  # every row has the same patients
    scores = (
        20
        + rng.normal(size=patients)
        + gain
        + 0.01 * np.arange(seeds)[:, None]
        + 0.02 * rng.normal(size=(seeds, patients))
    )
    return Row(name, {"psnr_brain": scores}, 100, 3 * seeds, tuple(range(seeds)), 0.5, cost, volume)


def test_a_planted_decibel_is_better_and_the_same_network_is_not():
    double = Cost(2000, 10**9, 0.1, 0.2, None)
    rows = [row("unet", 0.0), row("better", 1.0, cost=double), row("same", 0.0, cost=double), row("worse", -1.0)]
    found = {one.method: one for one in results.judge(rows, [PSNR])}
    assert {name: one.verdict.word for name, one in found.items()} == {
        "better": "better", "same": "not worth it", "worse": "worse"
    }  # fmt: skip
    assert abs(found["better"].difference.mean - 1) < 1e-9
    assert found["better"].difference.seeds == (3, 3)
    assert "2.0 x parameters, 1.0 x time: better" in found["better"].verdict.sentence


def test_holm_counts_every_row_of_the_arm():
    rows = [row("unet", 0.0), row("a", 1.0), row("b", -1.0)]
    for one in results.judge(rows, [PSNR]):
        assert one.p_holm == 2 * one.difference.p  # both have the least p that 12 patients can give


def test_what_a_family_could_have_shown_is_shown_four_times_in_five():
    """The one row that differs by `detectable` among ten, as Holm over ten rows finds it."""
    rng, patients, words = np.random.default_rng(5), 47, []

    def one(gain, name="x"):
        return Row(name, {"psnr_brain": 20 + gain + rng.normal(size=(1, patients))})

    def others(count):
        return [one(0.0, str(number)) for number in range(count)]

    rows = others(11)
    detectable = np.mean([found.difference.detectable for found in results.judge(rows, [PSNR])])
    for _ in range(100):
        rows = [one(0.0), one(float(detectable)), *others(9)]
        words.append(results.judge(rows, [PSNR])[0].verdict.word)
    assert 0.68 <= np.mean([word == "better" for word in words]) <= 0.9


def test_a_row_without_the_score_is_not_judged_and_a_baseline_has_no_price():
    copy = Row("copy of T1", {"psnr_brain": row("x", -2.0, seeds=1).scores["psnr_brain"]})
    found = results.judge([row("unet", 0.0), copy, Row("odd", {})], [PSNR])
    assert [one.method for one in found] == ["copy of T1"]
    assert " x " not in found[0].verdict.sentence
    assert found[0].difference.seeds == (1, 3)


def test_the_cost_of_training_is_steps_times_pace_over_all_runs():
    assert row("unet", 0.0).hours == 100 * 9 * 0.5 / 3600
    assert Row("copy of T1", {}).hours is None


def test_what_a_seed_does_to_both_is_no_difference():
    """Seeds that shift every method alike are told apart from the difference where both have the same ones."""
    shift = np.array([[0.0], [2.0], [-2.0]])
    reference, better = row("unet", 0.0), row("better", 0.2)
    alike = [
        Row(one.name, {"psnr_brain": one.scores["psnr_brain"] + shift}, 100, 9, (1, 2, 3))
        for one in (reference, better)
    ]
    apart = [alike[0], Row("better", alike[1].scores, 100, 9, (4, 5, 6))]
    widths = [
        found.difference.high - found.difference.low for (found,) in (results.judge(r, [PSNR]) for r in (alike, apart))
    ]
    assert widths[0] < 0.2
    assert widths[1] > 2


def test_a_row_says_how_many_patients_its_mean_is_of():
    scores = np.array([[1.0, 2, np.nan], [1.0, np.nan, 3]])
    assert Row("x", {"auc_tumour": scores}).patients("auc_tumour") == 1
    assert Row("x", {}).patients("auc_tumour") == 0


def test_costs_are_kept_apart_by_device_and_want_of_one_loses_nothing(tmp_path, monkeypatch):
    seconds = {"cpu": 9.0, "cuda": 0.1}
    monkeypatch.setattr(throughput.devices, "pick", lambda name: torch.device(name))
    monkeypatch.setattr(profile, "measure", lambda file, side, device, *_: Measured(seconds[device], 1.0, None))
    config = configs.load("bridge-small")
    candidate, kept = Candidate("unet", config), tmp_path / "costs.json"
    found = [results.measured(candidate, tmp_path, device, kept).slice for device in ("cpu", "cuda", "cpu")]
    assert found == [9.0, 0.1, 9.0]

    def starved(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(profile, "measure", starved)
    arms = {"parameters": (Method(Candidate("deeper", config), 4, (Run(tmp_path, config, tmp_path),)),)}
    assert results.costs(arms, {}, "cpu", tmp_path / "other.json") == ({}, {"deeper": "no room"})
