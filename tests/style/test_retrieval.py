"""Style retrieval: the predicted style of a case is that of the patients with similar sources."""

import json
from itertools import product

import numpy as np
import pytest

from dsdiff.qc.membership import CaseFeatures
from dsdiff.qc.ood import MIN_PATIENTS
from dsdiff.style import retrieval
from dsdiff.style.regression import LinearRegression, StyleCode
from dsdiff.style.retrieval import StyleRetriever

# Per site: mean of its features, and weight of T1 in its T1ce.
SITES = {"a": (0.0, 2.0), "b": (1.0, -1.0)}


def simulate_patient(site: str, seed: int) -> tuple[CaseFeatures, LinearRegression]:
    """Features of the sources, and the style of the T1ce."""
    rng = np.random.default_rng(seed)
    feature_mean, t1_weight = SITES[site]
    features = {
        "contrast": {"correlation": feature_mean + rng.normal(0, 0.1), "darkest": rng.normal()},
        "detail": {"roughness": 5 * feature_mean + rng.normal(0, 0.3)},
        "shape": {"volume": rng.normal()},
    }
    sources = list(rng.normal(size=(2, 8, 8, 8)).astype(np.float32))
    regression = LinearRegression(2, "curves")
    regression.add_patient(sources, t1_weight * sources[0] + 0.5 * sources[1], np.ones((8, 8, 8), bool))
    return features, regression


@pytest.fixture(scope="module")
def retriever() -> StyleRetriever:
    patients = [simulate_patient(site, seed) for seed, site in product(range(6), SITES)]
    features, regressions = zip(*patients, strict=True)
    fitted = retrieval.fit_retriever(features, regressions)
    assert fitted is not None
    return fitted


def slope_of_t1(style_code: StyleCode) -> float:
    """Weight of T1 between the knots: its own, and that of the part above the first knot."""
    return float(style_code.weights[0] + style_code.weights[2])


def slope_of_t2(style_code: StyleCode) -> float:
    return float(style_code.weights[1] + style_code.weights[3])


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("seed", [90, 91, 92])
def test_a_new_case_gets_the_style_of_its_site(retriever, site, seed):
    features, _ = simulate_patient(site, seed)
    style_code = retriever.predict_style(features)
    assert slope_of_t1(style_code) == pytest.approx(SITES[site][1], abs=0.15)
    assert slope_of_t2(style_code) == pytest.approx(0.5, abs=0.1)


@pytest.fixture(scope="module")
def phantoms() -> tuple[list[CaseFeatures], list[LinearRegression]]:
    """Phantoms between the sites, with three times the weights of site a."""
    regressions = []
    for seed in range(50, 54):
        _, regression = simulate_patient("a", seed)
        regressions.append(LinearRegression.from_equations(regression.gram, 3 * regression.moment, "curves"))
    features = [{"contrast": {"correlation": 0.0, "darkest": 0.1 * k}, "detail": {"roughness": 0.0}} for k in range(4)]
    return features, regressions


def test_phantoms_predict_phantoms_and_patients_predict_patients(retriever, phantoms):
    features, regressions = phantoms
    merged = retrieval.add_phantoms(retriever, features, regressions)
    assert (len(merged.rows), merged.n_phantoms) == (len(retriever.rows) + 4, 4)

    phantom_slope = slope_of_t1(LinearRegression.merge(regressions).style_code)
    assert slope_of_t1(merged.predict_style(features[0])) == pytest.approx(phantom_slope, rel=0.05)
    for case in (simulate_patient("a", 90)[0], simulate_patient("b", 91)[0], {}):
        assert np.array_equal(merged.predict_style(case).weights, retriever.predict_style(case).weights)


def test_a_phantom_without_features_is_left_out(retriever, phantoms):
    features, regressions = phantoms
    merged = retrieval.add_phantoms(retriever, [features[0], {}], regressions[:2])
    assert merged.n_phantoms == 1


def test_a_distant_case_still_gets_a_style(retriever):
    features = {"contrast": {"correlation": 90.0, "darkest": -90.0}, "detail": {"roughness": 90.0}}
    assert np.isfinite(retriever.predict_style(features).weights).all()


def test_a_case_without_features_gets_the_average_style(retriever):
    average = LinearRegression.merge(retriever.regressions)
    assert np.allclose(retriever.predict_style({}).weights, average.weights)


def test_excluded_rows_do_not_change_the_prediction(retriever):
    first = retriever.regressions[0]
    negated = LinearRegression.from_equations(first.gram, -first.moment, first.kind)
    changed = StyleRetriever(
        retriever.names, retriever.center, retriever.scale, retriever.rows, (negated, *retriever.regressions[1:])
    )
    features, _ = simulate_patient("a", 0)
    prediction = retriever.predict_style(features, exclude=[0]).weights
    assert np.array_equal(prediction, changed.predict_style(features, exclude=[0]).weights)
    assert not np.allclose(retriever.predict_style(features).weights, changed.predict_style(features).weights)


def test_fitting_needs_enough_patients_with_features():
    patients = [simulate_patient("a", seed) for seed in range(MIN_PATIENTS)]
    features, regressions = zip(*patients, strict=True)
    assert retrieval.fit_retriever(features, regressions) is not None
    assert retrieval.fit_retriever(features[1:], regressions[1:]) is None
    assert retrieval.fit_retriever((*features[1:], {}), regressions) is None


def test_a_retriever_survives_json(retriever, phantoms):
    merged = retrieval.add_phantoms(retriever, *phantoms)
    restored = StyleRetriever.from_dict(json.loads(json.dumps(merged.to_dict())))
    assert restored.n_phantoms == 4
    for features in (simulate_patient("b", 77)[0], phantoms[0][1]):
        prediction = restored.predict_style(features).weights
        assert np.allclose(prediction, merged.predict_style(features).weights, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"knots": [1.0]}, "no kind of style has the knots"),
        ({"n_phantoms": 12}, "12 of 12 rows cannot be phantoms"),
        ({"grams": [], "moments": []}, "0 regressions for 12 patients"),
        ({"names": ["x"]}, "1 names do not match"),
    ],
)
def test_damaged_values_raise_an_error(retriever, changes, message):
    with pytest.raises(ValueError, match=message):
        StyleRetriever.from_dict(retriever.to_dict() | changes)
