"""What the formulas of attention kernels say about single terms."""

import numpy as np
import pytest

from kvplan.latency.fit.decode import DecodeAttention
from kvplan.latency.fit.prefill import PrefillAttention, _keys_per_query
from kvplan.latency.fit.structure import Hardware

HARDWARE = Hardware("test-gpu", 100, 2e12, 40e6, 4e14)

DECODE = {"batch": 1, "ctx": 16, "window": 0, "q_heads": 32, "kv_heads": 8, "head_dim": 128,
          "kv_element_bytes": 2}  # fmt: skip
PREFILL = {"batch": 4, "new": 64, "before": 0, "window": 0, "q_heads": 32, "kv_heads": 8, "head_dim": 128,
           "kv_element_bytes": 2}  # fmt: skip


def effect(structure, name, value, shape):
    """Seconds that ``value`` of a parameter adds to those of its least value."""
    parameters = structure.parameters()
    place = [p.name for p in parameters].index(name)
    shapes = {column: np.array([float(size)]) for column, size in shape.items()}
    values = np.array([p.start for p in parameters])
    values[place] = parameters[place].low
    without = structure.seconds(values, shapes)[0]
    values[place] = value
    return structure.seconds(values, shapes)[0] - without


@pytest.mark.parametrize(
    ("more", "copied"),
    [
        ({"batch": 2}, True),
        ({"batch": 1}, False),
        ({"batch": 2, "q_heads": 4, "kv_heads": 1}, False),
        ({"batch": 2, "q_heads": 8}, False),
    ],
)
def test_queries_are_put_side_by_side_where_they_are_apart(more, copied):
    found = effect(DecodeAttention(HARDWARE), "regroup_s", 6e-6, {**DECODE, **more})
    assert found == pytest.approx(6e-6 if copied else 0.0, abs=1e-8)


def test_every_further_split_is_one_more_partial_result_to_add():
    structure = DecodeAttention(HARDWARE)

    def merging(ctx):
        return effect(structure, "partial_s", 1e-7, {**DECODE, "q_heads": 4, "kv_heads": 1, "ctx": ctx})

    assert merging(128) == pytest.approx(0.0, abs=1e-9)
    assert merging(256 * 16) == pytest.approx(15 * 1e-7, rel=0.01)
    assert merging(256 * 32) == pytest.approx(31 * 1e-7, rel=0.01)
    # No more than the device has room for.
    assert merging(256 * 4096) == pytest.approx(99 * 1e-7, rel=0.01)


def test_heads_that_share_tiles_need_fewer_of_them_for_few_new_tokens():
    structure = PrefillAttention(HARDWARE)
    assert effect(structure, "packing", 1.0, {**PREFILL, "batch": 64}) < 0
    assert effect(structure, "packing", 1.0, {**PREFILL, "new": 4096}) == pytest.approx(0.0, abs=1e-12)
    assert effect(structure, "packing", 1.0, {**PREFILL, "kv_heads": 32}) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("element", [1, 2])
def test_writing_the_cache_comes_on_top_only_where_it_was_timed(element):
    shape = {**PREFILL, "new": 2048, "kv_element_bytes": element}
    # Keys and values of 4 * 2048 tokens and 8 heads are read in 16 bits and written in the cache's format.
    written = 2.0 * 4 * 2048 * 8 * 128 * (2 + element)
    fastest = 100 * HARDWARE.bandwidth_bytes_per_s
    timed = -effect(PrefillAttention(HARDWARE), "write_bandwidth", fastest, shape)
    slowest = 0.05 * HARDWARE.bandwidth_bytes_per_s
    assert timed == pytest.approx(written / slowest - written / fastest, rel=1e-3)
    alone = {p.name: p for p in PrefillAttention(HARDWARE, writes=False).parameters()}
    assert alone["write_bandwidth"].low < alone["write_bandwidth"].start == fastest
    assert written / alone["write_bandwidth"].low + 4 * 2048 * alone["write_token_s"].high < 2e-6


def test_a_token_is_written_by_a_block_of_threads_that_grows_with_its_row():
    structure = PrefillAttention(HARDWARE)

    def writing(heads):
        shape = {**PREFILL, "new": 2048, "q_heads": heads, "kv_heads": heads}
        return effect(structure, "write_token_s", 1e-8, shape) / (4 * 2048)

    assert writing(1) == pytest.approx(0.25e-8, rel=0.01)
    assert writing(2) == pytest.approx(0.50e-8, rel=0.01)
    assert writing(8) == pytest.approx(writing(16), rel=0.01)
    assert writing(16) == pytest.approx(1e-8, rel=0.01)


def test_the_longest_row_of_tiles_is_waited_for_where_few_are():
    structure = PrefillAttention(HARDWARE)
    few, many = {**PREFILL, "batch": 1, "q_heads": 1, "kv_heads": 1}, {**PREFILL, "batch": 256}
    # One head's last query sees all the keys; among many tiles its row is no more than one of them.
    assert effect(structure, "token_s", 1e-7, {**few, "new": 8192}) > 0.9 * 8192 * 1e-7
    assert effect(structure, "token_s", 1e-7, {**many, "new": 8192}) < 0.01 * 8192 * 1e-7


def test_one_new_token_needs_fewer_launches():
    structure = PrefillAttention(HARDWARE)
    assert effect(structure, "many_s", 3e-6, {**PREFILL, "new": 1}) == 0.0
    assert effect(structure, "many_s", 3e-6, PREFILL) == pytest.approx(3e-6, abs=2e-8)


def test_a_window_costs_once_and_only_where_it_cuts():
    structure = DecodeAttention(HARDWARE)
    for ctx, cut in ((128, False), (129, True), (65_536, True)):
        found = effect(structure, "cut_s", 5e-6, {**DECODE, "window": 128, "ctx": ctx})
        assert found == pytest.approx(5e-6 if cut else 0.0, abs=2e-9)
    assert effect(structure, "cut_s", 5e-6, {**DECODE, "ctx": 65_536}) == 0.0


def test_a_design_looks_beyond_the_window():
    shapes = {name: np.full(8, float(size)) for name, size in DECODE.items()}
    shapes |= {"window": np.full(8, 128.0), "ctx": 2.0 ** np.arange(8, 16)}
    points = DecodeAttention(HARDWARE).design_coordinates(shapes)
    assert len({tuple(point) for point in points}) == 8


def brute_force_keys(before, new, window):
    return sum(min(position, window or position) for position in range(before + 1, before + new + 1)) / new


@pytest.mark.parametrize("before", [0, 5, 200])
@pytest.mark.parametrize("new", [1, 64, 500])
@pytest.mark.parametrize("window", [0, 1, 128, 10_000])
def test_keys_are_those_that_every_query_sees(before, new, window):
    shapes = {"before": np.array([before]), "new": np.array([new]), "window": np.array([window])}
    assert _keys_per_query(shapes)[0] == pytest.approx(brute_force_keys(before, new, window))
