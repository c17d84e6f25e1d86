"""How many programs share a sequence: nobody idles, few wait, and what they leave is combined where it costs less."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.kernels.splits import COMBINED_AT_ONCE, MOST, choose_splits, worth_fusing


def splits(programs: int, tokens: int, each: int = 4, ring: bool = False, enough: int = 4) -> int:
    return choose_splits(programs=programs, tokens=tokens, multiprocessors=132, per_multiprocessor=each,
                         enough=min(each, enough), smallest_share=64, ring=ring)  # fmt: skip


@given(
    programs=st.integers(1, 5000), tokens=st.integers(0, 200_000), each=st.integers(1, 4), ring=st.booleans()
)
def test_every_split_has_tokens(programs: int, tokens: int, each: int, ring: bool):
    found = splits(programs, tokens, each, ring)
    assert 1 <= found <= MOST
    sharers = found - 1 if ring and found > 1 else found
    share = math.ceil(math.ceil(tokens / sharers) / 64) * 64
    assert sharers == 1 or (sharers - 1) * share < tokens


def test_a_short_context_of_few_sequences_is_split_to_single_tiles():
    # 8 heads on 132 multiprocessors: tiles that follow each other take a microsecond each.
    assert splits(8, 512) == 8
    assert splits(8, 2048) == 32
    assert splits(32, 512) == 8
    assert splits(1024, 512) == 1


@pytest.mark.parametrize(
    ("programs", "each", "found"),
    [
        (512, 4, 1),  # 528 places
        (512, 3, 3),  # 396 places: 1.3 waves would take two, 3.9 of a third of the tokens 1.3
        (300, 4, 7),  # 0.57 of the places; 3.98 waves of a seventh
        (256, 4, 2),
        (2048, 4, 1),  # 3.9 waves
    ],
)
def test_the_last_wave_is_filled_where_it_is_long(programs: int, each: int, found: int):
    assert splits(programs, 32768, each) == found


def test_a_wave_that_keeps_memory_busy_needs_no_filling():
    assert splits(512, 32768, each=3, enough=1) == 1
    assert splits(300, 32768, each=4, enough=2) == 1


def test_a_ring_takes_a_split_and_hardly_any_time():
    assert splits(128, 131072, 3, ring=True) == 4
    assert splits(512, 32768, 3, ring=True) == 4
    assert splits(8, 131072, 3, ring=True) <= MOST


def test_rows_are_combined_in_the_same_launch_while_that_takes_less_time_than_another():
    assert worth_fusing(8, 4, 128)
    assert worth_fusing(8, 8, 128)
    assert not worth_fusing(64, 4, 128)
    # One program would combine sixteen rows of a latent one after the other.
    assert not worth_fusing(2, 16, 512)
    assert not worth_fusing(1, 1, 128)


def test_what_is_combined_at_once_is_what_the_kernel_loads_at_once():
    reduce = pytest.importorskip("kvplan.kernels.gpu.reduce", reason="triton is not installed")
    for rows, width in ((1, 128), (4, 128), (1, 512), (2, 256)):
        assert 8 * reduce.lots_at_once(rows, width) * rows * width == COMBINED_AT_ONCE
    assert reduce.rows_at_once(8, 128) == COMBINED_AT_ONCE // 8 // 128
