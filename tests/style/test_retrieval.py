"""The style to be expected of a case is that of the patients whose sources are like its own."""

import json

import numpy as np
import pytest

from dsdiff.errors import ModelError
from dsdiff.qc import lineage, membership
from dsdiff.qc.lineage import NO_FOLD, PretrainingRecord
from dsdiff.qc.ood import FEWEST
from dsdiff.style import retrieval
from dsdiff.style.regression import KNOTS, LinearRegression

SITES = {"a": (0.0, 2.0), "b": (1.0, -1.0)}  # where its sources lie in measurements, how its T1ce follows T1


def patient(site: str, seed: int) -> tuple[retrieval.Measured, LinearRegression]:
    """A patient of a site: its measurements, and its T1ce in terms of its sources."""
    rng, (place, slope) = np.random.default_rng(seed), SITES[site]
    measured = {
        "contrast": {"correlation": place + rng.normal(0, 0.1), "darkest": rng.normal()},
        "detail": {"roughness": 5 * place + rng.normal(0, 0.3)},
        "shape": {"volume": rng.normal()},
    }
    sources = list(rng.normal(size=(2, 8, 8, 8)).astype(np.float32))
    found, everywhere = LinearRegression(2, KNOTS["curves"]), np.ones((8, 8, 8), bool)
    found.add(sources, slope * sources[0] + 0.5 * sources[1], everywhere)
    return measured, found


@pytest.fixture(scope="module")
def known() -> retrieval.StyleRetriever:
    patients = [patient(site, seed) for seed in range(6) for site in SITES]
    found = retrieval.learn(*zip(*patients, strict=True))
    assert found is not None
    return found


def slope(code: np.ndarray) -> float:
    """How T1ce follows T1 between the knots: below the first knot lies none of what is above it."""
    return float(code[0] + code[2])


@pytest.mark.parametrize("site", SITES)
def test_a_case_gets_the_style_of_its_like(known, site):
    for seed in (90, 91, 92):
        code = known.code(patient(site, seed)[0])
        assert slope(code) == pytest.approx(SITES[site][1], abs=0.15)
        assert code[1] + code[3] == pytest.approx(0.5, abs=0.1)


def test_phantoms_are_told_by_phantoms_and_patients_by_patients(known):
    """Phantoms halfway between the sites, with a style of their own."""
    of_phantoms = [patient("a", 50 + seed)[1] for seed in range(4)]
    steep = [LinearRegression.of(one.gram, 3 * one.moment, one.knots) for one in of_phantoms]
    middle = [{"contrast": {"correlation": 0.0, "darkest": 0.1 * k}, "detail": {"roughness": 0.0}} for k in range(4)]
    both = retrieval.beside(known, [*middle, {}], [*steep, of_phantoms[0]])  # the last was not measured
    assert (len(both.rows), both.simulated) == (len(known.rows) + 4, 4)
    assert slope(both.code(middle[0])) == pytest.approx(
        3 * slope(LinearRegression.merged(of_phantoms).weights), rel=0.05
    )
    for case in (patient("a", 90)[0], patient("b", 91)[0], {}):
        assert np.array_equal(both.code(case), known.code(case))
    again = retrieval.parse(both.dump(), "here")
    assert again.simulated == 4
    assert np.allclose(again.code(middle[1]), both.code(middle[1]), atol=1e-3)
    with pytest.raises(ModelError, match="simulated"):
        retrieval.parse(json.dumps(json.loads(both.dump()) | {"simulated": len(both.rows)}), "here")


def test_its_own_patients_are_known_again(known):
    assert known.contains(patient("a", 0)[0])
    assert not known.contains(patient("a", 90)[0])
    assert not known.contains({})


def test_far_from_everybody_it_is_still_a_style(known):
    far = {"contrast": {"correlation": 90.0, "darkest": -90.0}, "detail": {"roughness": 90.0}}
    assert np.isfinite(known.code(far)).all()
    average = LinearRegression.merged(known.regressions).weights
    assert np.allclose(known.code({}), average)  # nothing measured: everybody is as near


def test_a_training_patient_is_told_what_the_others_say(known):
    found = known.regressions[0]
    swapped = LinearRegression.of(found.gram, -found.moment, found.knots)
    other = retrieval.StyleRetriever(
        known.names, known.center, known.scale, known.rows, (swapped, *known.regressions[1:])
    )
    own, _ = patient("a", 0)
    assert np.array_equal(known.code(own, besides=[0]), other.code(own, besides=[0]))
    assert not np.allclose(known.code(own), other.code(own))


def test_few_or_unmeasured_patients_tell_nothing():
    patients = [patient("a", seed) for seed in range(FEWEST)]
    measured, found = zip(*patients, strict=True)
    assert retrieval.learn(measured[1:], found[1:]) is None
    assert retrieval.learn((*measured[1:], {}), found) is None
    assert retrieval.learn(measured, found) is not None
    for few in (measured[:1], measured[:2]):  # whom a model saw can be told of any number
        one = membership.fit_index(few)
        assert [one.contains(each) for each in (*few, measured[-1])] == [*[True] * len(few), False]
    assert membership.fit_index([]) is None


def test_ancestors_know_their_patients_again(known):
    own, _ = patient("a", 0)
    other, _ = patient("b", 77)
    line = lineage.parse(
        lineage.dump([PretrainingRecord(("abc", 1), None), PretrainingRecord(NO_FOLD, known)]), "model"
    )
    assert [one.trained_on(own) for one in line] == [False, True]
    assert [one.trained_on(other) for one in line] == [False, False]
    assert [line[0].trained_on(other, ("abc", fold)) for fold in (0, 1)] == [True, False]  # fold 1 is the one held out
    assert [one.can_verify(("abc", 0)) for one in line] == [True, True]
    assert [one.can_verify(("xyz", 0)) for one in line] == [False, True]
    assert lineage.parse("", "model") == ()
    for wrong in ("{}x", "[1]", '[["abc", 1, "{}"]]'):
        with pytest.raises(ModelError, match="model does not say wh"):
            lineage.parse(wrong, "model")


def test_it_comes_back_from_json_and_nothing_else_does(known):
    again = retrieval.parse(known.dump(), "model")
    case, _ = patient("b", 77)
    assert np.allclose(again.code(case), known.code(case), atol=1e-4)
    for wrong in ("", "[]", '{"names": ["x"]}', known.dump().replace('"knots": [-1.0, 1.0]', '"knots": [1.0]')):
        with pytest.raises(ModelError, match="model does not say what"):
            retrieval.parse(wrong, "model")
