"""Numbers about verifiers, against figures worked by hand and against their definitions."""

from __future__ import annotations

import math
import random

import pytest

from lite_huatuo.verifier import metrics


def test_counts_leave_failures_out_of_every_share() -> None:
    labels = [True, True, True, False, False, False, True, False]
    said = [True, True, False, True, False, False, None, None]
    counts = metrics.confusion(labels, said)
    assert (counts.true_positives, counts.false_positives, counts.true_negatives, counts.false_negatives) == (
        2,
        1,
        2,
        1,
    )
    assert (counts.failed, counts.judged) == (2, 6)
    assert counts.accuracy.value == pytest.approx(4 / 6)
    assert counts.precision.value == pytest.approx(2 / 3)
    assert counts.recall.value == pytest.approx(2 / 3)
    assert counts.false_positive_rate.value == pytest.approx(1 / 3)
    assert counts.f1 == pytest.approx(2 / 3)
    report = counts.report()
    assert (report["n"], report["failed"], report["accuracy"]["n"]) == (8, 2, 6)


def test_no_verdicts_have_no_shares() -> None:
    counts = metrics.confusion([True, False], [None, None])
    assert counts.accuracy == metrics.Share(None, 0.0, 1.0, 0, 0)
    assert counts.f1 is None


def test_wilson_gives_known_intervals() -> None:
    share = metrics.wilson(81, 263)  # Newcombe 1998, table I: 0.2553 to 0.3662
    assert (share.value, share.low, share.high) == pytest.approx((0.308, 0.2553, 0.3662), abs=5e-5)
    assert metrics.wilson(0, 20).high == pytest.approx(0.1611, abs=5e-5)  # the same table: 0 to 0.1611
    assert metrics.wilson(0, 20).low == 0.0
    assert metrics.wilson(1, 29).low == pytest.approx(0.0061, abs=5e-5)  # the same table: 0.0061 to 0.1718


def test_kappa_by_hand() -> None:
    # 20 both right, 5 only the first, 10 only the second, 15 both wrong: 0.70 agreed, 0.50 by chance
    first = [True] * 25 + [False] * 25
    second = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert metrics.kappa(first, second) == pytest.approx(0.4)
    assert metrics.kappa([True, False], [True, False]) == 1.0
    assert metrics.kappa([True, False], [False, True]) == -1.0
    assert metrics.kappa([True, True], [True, True]) is None
    assert metrics.kappa([], []) is None


def test_calibration_error_by_hand() -> None:
    # bin of 0.1: 4 items, 1 right: 0.15 off; bin of 0.9: 6 items, 3 right: 0.4 off
    probabilities = [0.1] * 4 + [0.9] * 6
    labels = [True, False, False, False] + [True] * 3 + [False] * 3
    assert metrics.calibration_error(probabilities, labels, bins=10) == pytest.approx(0.4 * 0.15 + 0.6 * 0.4)
    assert metrics.calibration_error([1.0, 0.0], [True, False]) == 0.0
    assert metrics.calibration_error([], []) is None


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_that_spoilt_the_probabilities_is_found(temperature: float) -> None:
    rng = random.Random(0)
    true = [rng.random() for _ in range(20_000)]
    labels = [rng.random() < p for p in true]
    spoilt = [metrics.tempered(p, 1 / temperature) for p in true]
    found = metrics.fit_temperature(spoilt, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    mended = [metrics.tempered(p, found) for p in spoilt]
    error = metrics.calibration_error(mended, labels)
    assert error is not None
    assert error < 0.02
    if temperature != 1.0:
        before = metrics.calibration_error(spoilt, labels)
        assert before is not None
        assert error < before / 3


def test_extreme_verdicts_have_a_finite_temperature() -> None:
    assert metrics.fit_temperature([], []) == 1.0
    assert metrics.fit_temperature([0.9, 0.1], [True, False]) == pytest.approx(metrics.LEAST, rel=1e-3)
    assert metrics.fit_temperature([1.0, 0.0], [False, True]) == pytest.approx(metrics.MOST, rel=1e-3)
    assert math.isfinite(metrics.logit(0.0))
    assert metrics.tempered(0.5, 3.0) == 0.5
