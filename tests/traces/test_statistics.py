"""Statistics by hand and against numpy."""

from __future__ import annotations

import random

import numpy as np
import pytest

from kvplan.traces.request import Request
from kvplan.traces.statistics import measure, measure_trace, quantile, spread, timing
from kvplan.traces.trace import open_trace


def test_percentiles_equal_numpy():
    rng = random.Random(1)
    values = [rng.randrange(10**6) for _ in range(1_001)]
    for size in (1, 2, 3, 10, 1_001):
        for q in (0.0, 0.5, 0.9, 0.99, 1.0):
            assert quantile(sorted(values[:size]), q) == pytest.approx(
                np.quantile(values[:size], q), rel=1e-12
            )


def test_timing_equals_numpy():
    rng = random.Random(2)
    arrivals = sorted(rng.random() * 300 for _ in range(2_000))
    found = timing(arrivals)
    gaps = np.diff(arrivals)
    counts = np.bincount((np.array(arrivals) - arrivals[0]).astype(int))
    assert found.gap_cv == pytest.approx(gaps.std() / gaps.mean())
    assert found.dispersion == pytest.approx(counts.var() / counts.mean())
    assert found.rate_per_s == pytest.approx(2_000 / (arrivals[-1] - arrivals[0]))


def test_a_minute_that_has_not_ended_is_neither_busy_nor_quiet():
    whole = [float(second) for second in range(60)] + [60.0 + 2.0 * k for k in range(30)]
    found = timing([*whole, 120.0, *(121.0 + 0.1 * k for k in range(100))])
    assert (found.busiest_minute, found.quietest_minute) == (60, 30)
    assert timing(whole[:70]).quietest_minute == timing(whole[:70]).busiest_minute == 60


def test_clumps_are_seen():
    found = timing([0.0, 0.0, 3.0, 3.0, 3.0, 6.0])
    assert (found.distinct_arrivals, found.largest_clump) == (3, 3)


def test_undefined_is_none_not_zero():
    for arrivals in ([], [5.0], [5.0, 5.0]):
        found = timing(arrivals)
        assert found.rate_per_s is found.gap_cv is found.dispersion is None
    assert timing([0.0, 1e9]).dispersion is None
    assert spread([]).mean == 0.0


def test_reuse_is_unknown_as_a_word():
    request = Request("0", 0.0, ((0, 5),), 5, ((9, 1),), 1, 0, "s")
    found = measure([request], block_size=None).to_dict()
    assert found["reuse"] == "unknown"
    assert found["sessions"] == 1


def test_a_trace_that_loses_its_ids_on_the_way_has_unknown_reuse(tmp_path):
    row = '{"timestamp": 0, "input_length": 3, "output_length": 2%s}\n'
    path = tmp_path / "t.jsonl"
    path.write_text(row % ', "hash_ids": [1]' + row % "")
    assert measure_trace(open_trace(path)).reuse is None
    path.write_text(row % ', "hash_ids": [1]' + row % ', "hash_ids": [1]')
    found = measure_trace(open_trace(path))
    assert found.reuse is not None
    assert (found.reuse.block_size, found.reuse.hit_blocks, found.reuse.hit_tokens) == (512, 1, 0)
