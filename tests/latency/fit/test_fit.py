"""Fitting recovers what made the data, predicts what it never saw, and its band covers what it says."""

import numpy as np
import pytest

from kvplan.errors import DataError
from kvplan.latency.fit.design import maximin, spread
from kvplan.latency.fit.kernel import designed_rows, fit_kernel, take
from kvplan.latency.fit.residual import fit_residual
from kvplan.latency.fit.solve import Parameter, least_squares


def test_the_solver_finds_the_parameters_through_outliers():
    x = np.linspace(1, 10, 40)
    target = 2e-3 + 3e-4 * x
    target[::9] *= 3.0
    parameters = [Parameter("a", 1e-3, 1e-6, 1.0), Parameter("b", 1e-3, 1e-6, 1.0)]
    found = least_squares(lambda p: p[0] + p[1] * x, target, parameters, loss_scale=0.01)
    assert found.values == pytest.approx([2e-3, 3e-4], rel=0.02)


def test_the_solver_stays_inside_the_bounds():
    x = np.linspace(1, 10, 40)
    parameters = [Parameter("a", 1e-3, 5e-4, 2e-3), Parameter("b", 1e-3, 5e-4, 2e-3)]
    found = least_squares(lambda p: p[0] + p[1] * x, 5.0 + x, parameters)
    assert np.all(found.values <= 2e-3 * (1 + 1e-12))


def test_a_design_spreads_ignores_order_of_magnitude_and_takes_all_when_few():
    points = np.array([[float(i), float(j)] for i in range(10) for j in range(10)])
    chosen = maximin(points, 5)
    assert {tuple(points[i]) for i in chosen} >= {(0.0, 0.0), (0.0, 9.0), (9.0, 0.0), (9.0, 9.0)}
    assert list(maximin(points[:4], 5)) == [0, 1, 2, 3]
    assert list(maximin(points, 5)) == list(chosen)


def test_half_of_a_design_lies_at_the_edges_and_half_where_the_rows_are():
    rng = np.random.default_rng(2)
    crowd = rng.normal(50.0, 3.0, (900, 2))
    edges = np.array([[x, y] for x in (0.0, 100.0) for y in (0.0, 50.0, 100.0)])
    points = np.concatenate([crowd, edges])
    chosen = spread(points, 24)
    assert len(set(chosen.tolist())) == 24
    assert set(range(900, 906)) <= set(chosen.tolist())
    mean = [
        np.mean(np.min(np.linalg.norm(points[:, None] - points[None, rows], axis=2), axis=1))
        for rows in (chosen, maximin(points, 24))
    ]
    assert mean[0] < 0.8 * mean[1]
    assert list(spread(points, 24)) == list(chosen)
    assert list(spread(points[:4], 5)) == [0, 1, 2, 3]


def test_the_design_never_sees_a_time(decode_case):
    structure, _, shapes, _ = decode_case
    rows = designed_rows(structure, shapes, 60)
    assert rows.size == 60
    assert len(set(rows.tolist())) == 60


@pytest.fixture(scope="module")
def fitted(decode_case):
    structure, _, shapes, seconds = decode_case
    rows = designed_rows(structure, shapes, 120)
    return rows, fit_kernel(structure, take(shapes, rows), seconds[rows])


def test_held_out_shapes_are_predicted_and_covered(decode_case, fitted):
    structure, truth, shapes, seconds = decode_case
    rows, kernel = fitted
    test = np.setdiff1d(np.arange(seconds.size), rows)
    guess = kernel.predict(take(shapes, test))
    error = np.abs(guess.seconds / structure.seconds(truth, take(shapes, test)) - 1)
    assert np.median(error) < 0.02
    assert np.quantile(error, 0.9) < 0.06
    covered = (seconds[test] >= guess.low) & (seconds[test] <= guess.high)
    assert 0.85 <= covered.mean() <= 1.0
    assert np.all(guess.outside == 0)


def test_fitting_again_gives_the_same_bytes(decode_case, fitted):
    structure, _, shapes, seconds = decode_case
    rows, kernel = fitted
    again = fit_kernel(structure, take(shapes, rows), seconds[rows])
    assert again.values.tobytes() == kernel.values.tobytes()
    assert again.band.factor == kernel.band.factor
    assert again.band.scores.tobytes() == kernel.band.scores.tobytes()


def test_bands_widen_outside_the_measured_range(fitted):
    names = ("batch", "ctx", "window", "q_heads", "kv_heads", "head_dim", "kv_element_bytes")
    ctx = np.array([65536.0, 262144.0, 1048576.0])
    far = {name: np.full(3, float(value)) for name, value in zip(names, (4, 0, 0, 8, 8, 128, 2), strict=True)}
    guess = fitted[1].predict(far | {"ctx": ctx})
    width = np.log(guess.high / guess.low)
    assert list(guess.outside) == [0.0, 2.0, 4.0]
    assert width[0] < width[1] < width[2]
    assert np.all(np.isfinite(guess.seconds))


def test_a_residual_returns_to_zero_far_from_its_points():
    points = np.array([[0.0], [1.0], [2.0], [3.0]])
    residual = fit_residual(points, np.zeros(4), np.array([0.2, 0.21, 0.2, 0.19]))
    near, _ = residual.predict(np.array([[1.5]]), np.zeros(1))
    far, spread = residual.predict(np.array([[1e4]]), np.zeros(1))
    assert near[0] == pytest.approx(0.2, abs=0.05)
    assert abs(far[0]) < 1e-6
    assert spread[0] >= residual.amplitude


def test_a_residual_corrects_as_far_as_helps_on_shapes_left_out(decode_case):
    structure, truth, shapes, _ = decode_case
    rows = designed_rows(structure, shapes, 120)
    train = take(shapes, rows)
    clean = structure.seconds(truth, train)
    smooth = np.exp(0.15 * np.sin(np.log2(train["batch"]) / 2.0))
    assert fit_kernel(structure, train, clean * smooth).residual.strength == 1.0
    # A tenth of the calls waited for something: nothing about their neighbours follows from that.
    late = np.where(np.random.default_rng(1).random(rows.size) < 0.1, 1.6, 1.0)
    assert fit_kernel(structure, train, clean * late).residual.strength <= 0.25


def test_a_weakened_residual_stays_so_when_it_is_refitted():
    points, error = np.arange(6.0)[:, None], np.array([0.2, 0.1, 0.2, 0.15, 0.2, 0.1])
    whole = fit_residual(points, np.zeros(6), error)
    half = whole.weakened(0.5)
    again = fit_residual(points, np.zeros(6), error, like=half)
    assert half.mean(points, np.zeros(6)) == pytest.approx(0.5 * whole.mean(points, np.zeros(6)))
    assert again.weights == pytest.approx(half.weights)


def test_too_few_points_are_refused(decode_case):
    structure, _, shapes, seconds = decode_case
    few = np.arange(len(structure.parameters()))
    with pytest.raises(DataError, match="cannot fix its"):
        fit_kernel(structure, take(shapes, few), seconds[few])


@pytest.mark.parametrize("value", [0.0, -1e-6, np.nan, np.inf])
def test_times_that_are_no_times_are_refused(decode_case, value):
    structure, _, shapes, seconds = decode_case
    broken = seconds.copy()
    broken[3] = value
    with pytest.raises(DataError, match=r"1 of .* not positive"):
        fit_kernel(structure, shapes, broken)


def test_twice_the_bandwidth_halves_the_memory_bound_part(decode_case, gemm_structure):
    structure, truth, _, _ = decode_case
    big = {"batch": 64, "ctx": 65536, "window": 0, "q_heads": 8, "kv_heads": 8, "head_dim": 128,
           "kv_element_bytes": 2}  # fmt: skip
    shapes = {name: np.array([float(value)]) for name, value in big.items()}
    truth = truth.copy()
    truth[5], truth[10] = 1e-10, 1e16  # nothing but memory takes time
    faster = truth.copy()
    faster[1] *= 2
    ratio = structure.seconds(truth, shapes) / structure.seconds(faster, shapes)
    assert ratio[0] == pytest.approx(2.0, rel=0.02)
    values = np.array([p.start for p in gemm_structure.parameters()])
    values[1], values[5], values[10] = 1e18, 1e-9, 1e-14
    quick = values.copy()
    quick[2] *= 2
    tall = {"m": np.array([1.0]), "n": np.array([65536.0]), "k": np.array([65536.0])}
    ratio = gemm_structure.seconds(values, tall) / gemm_structure.seconds(quick, tall)
    assert ratio[0] == pytest.approx(2.0, rel=0.02)
