"""Address spaces against a bitmap; slots and growing regions by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import request, serve

from kvplan.engine.config import EngineConfig
from kvplan.engine.holding.placed import NO_ROOM, GrowthRule
from kvplan.engine.holding.space import AddressSpace, Fit, address_space
from kvplan.engine.holding.strategy import ContiguousGrowth, PagedReport, SlotAllocation


def runs(bitmap: list[bool]) -> list[tuple[int, int]]:
    """Free ranges of a bitmap, as start and length."""
    found: list[tuple[int, int]] = []
    for at, used in enumerate(bitmap):
        if used:
            continue
        if found and sum(found[-1]) == at:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((at, 1))
    return found


@given(
    st.sampled_from(["first", "best", "buddy"]),
    st.integers(1, 60),
    st.lists(st.tuples(st.sampled_from("aaer"), st.integers(1, 20), st.integers(0, 99)), max_size=40),
)
def test_regions_are_where_the_bitmap_is_free(
    fit: Fit, blocks: int, events: list[tuple[str, int, int]]
) -> None:
    space = address_space(fit, blocks)
    bitmap = [False] * blocks
    regions: list[tuple[int, int]] = []
    for what, asked, pick in events:
        size = space.rounded(asked)
        assert size >= asked
        if what == "a":
            holes = [hole for hole in runs(bitmap) if hole[1] >= size]
            possible = space.has(size)
            start = space.allocate(size)
            assert possible == (start is not None)
            if start is None:
                assert fit == "buddy" or not holes
                continue
            if fit == "first":
                assert start == holes[0][0]
            if fit == "best":
                assert start == min(holes, key=lambda hole: hole[1])[0]
            if fit == "buddy":
                assert start % size == 0
            assert not any(bitmap[start : start + size])
            bitmap[start : start + size] = [True] * size
            regions.append((start, size))
        elif regions:
            start, old = regions.pop(pick % len(regions))
            if what == "e" and size > old:
                behind = bitmap[start + old : start + size]
                extended = space.extend(start, old, size)
                if fit != "buddy":
                    assert extended == (len(behind) == size - old and not any(behind))
                if extended:
                    assert not any(behind)
                    bitmap[start : start + size] = [True] * size
                regions.append((start, size if extended else old))
            elif what == "r":
                space.release(start, old)
                bitmap[start : start + old] = [False] * old
            else:
                regions.append((start, old))
        assert space.free == bitmap.count(False)
        largest = max((length for _, length in runs(bitmap)), default=0)
        assert space.largest() <= largest
        if fit != "buddy":
            assert space.largest() == largest
    for start, size in regions:
        space.release(start, size)
    assert space.largest() == address_space(fit, blocks).largest()


def test_buddies_merge_back_into_what_the_space_was_dealt_into() -> None:
    space: AddressSpace = address_space("buddy", 14)  # 8 + 4 + 2
    starts = [space.allocate(1) for _ in range(14)]
    assert sorted(start for start in starts if start is not None) == list(range(14))
    assert space.allocate(1) is None
    for start in range(14):
        space.release(start, 1)
    assert [space.allocate(size) for size in (8, 4, 2)] == [0, 8, 12]


CONFIG = EngineConfig(
    101, block_size=1, max_model_len=64, enable_prefix_caching=False, async_scheduling=False
)


@pytest.mark.parametrize(
    ("reserve", "fit", "slot"),
    [
        ("max", "first", 64), ("pow2", "first", 10 + 32), ("oracle", "best", 10 + 25), ("oracle", "buddy", 64),
        ("pow2", "buddy", 64),
    ],
)  # fmt: skip
def test_slots_are_those_of_orca(reserve: str, fit: str, slot: int) -> None:
    strategy = SlotAllocation(reserve, fit)  # type: ignore[arg-type]
    served = serve(strategy.engine, CONFIG, [request("r", 10, 25)])
    assert served.totals["peak_used_blocks"] == slot
    assert {point.used_blocks for point in served.series} == {slot}
    # The last token sampled is never computed: 34 of the slot's tokens are.
    steps = list(range(10, 35))
    internal = float(str(served.metric("allocation", "internal_fragmentation")))
    assert internal == pytest.approx((slot - 34) / slot)
    peak = float(str(served.metric("allocation", "internal_fragmentation_peak")))
    assert peak == pytest.approx((slot - 34) / slot)
    used = float(str(served.metric("allocation", "used_share")))
    assert steps[0] / slot < used < steps[-1] / slot


def test_slots_bound_how_many_run() -> None:
    requests = [request(str(index), 10, 25, start=100 * index) for index in range(4)]
    by_reserve = {
        reserve: serve(SlotAllocation(reserve).engine, CONFIG, requests).totals["peak_running"]  # type: ignore[arg-type]
        for reserve in ("max", "pow2", "oracle")
    }
    assert by_reserve == {"max": 1, "pow2": 2, "oracle": 2}


def test_a_region_moves_when_its_neighbour_is_in_the_way() -> None:
    rule = GrowthRule(chunk=8, move=True, block_bytes=1000, copy_bytes_per_s=1e4)
    requests = [request("a", 8, 10), request("b", 8, 10, start=1000)]
    served = serve(ContiguousGrowth(rule).engine, CONFIG, requests)
    # a at 0 and b at 8 grow to 16 blocks, a at 16 and b at 32, and to 24, a at 48 and b at 0.
    assert served.metric("allocation", "moves") == 4
    assert served.metric("allocation", "extensions") == 0
    assert served.metric("allocation", "moved_bytes") == (8 + 8 + 16 + 16) * 1000
    assert served.metric("allocation", "moved_s") == pytest.approx(4.8)
    free = serve(ContiguousGrowth(GrowthRule(8, True, 0, 1e4)).engine, CONFIG, requests)
    late = [row.finish_s - other.finish_s for row, other in zip(served.rows, free.rows, strict=True)]
    assert late == pytest.approx([4.8, 4.8])


def test_a_region_with_room_behind_it_stays() -> None:
    rule = GrowthRule(chunk=8, move=True, block_bytes=1000, copy_bytes_per_s=1e4)
    served = serve(ContiguousGrowth(rule).engine, CONFIG, [request("a", 8, 10)])
    assert served.metric("allocation", "moves") == 0
    assert served.metric("allocation", "extensions") == 2
    assert [point.used_blocks for point in served.series] == [8] + [16] * 8 + [24]


def test_without_moves_room_is_made_by_preemption() -> None:
    rule = GrowthRule(chunk=8, move=False, block_bytes=0, copy_bytes_per_s=1.0)
    requests = [request("a", 8, 10), request("b", 8, 10, start=1000)]
    served = serve(ContiguousGrowth(rule).engine, CONFIG, requests)
    # b lies behind a both times a has to grow.
    assert served.metric("allocation", "moves") == 0
    assert [row.preemptions for row in served.rows] == [0, 2]
    assert served.metric("allocation", "scattered") == 2


def test_what_no_hole_can_ever_hold_is_rejected() -> None:
    config = EngineConfig(
        97, block_size=1, max_model_len=96, enable_prefix_caching=False
    )  # 96 usable: 64 + 32
    rule = GrowthRule(0, True, 1, 1.0)
    served = serve(ContiguousGrowth(rule, "buddy").engine, config, [request("r", 60, 20)])
    assert served.rejected == [("r", NO_ROOM)]
    served = serve(ContiguousGrowth(rule, "first").engine, config, [request("r", 60, 20)])
    assert served.rejected == []


def test_paged_memory_wastes_part_of_a_last_block_only() -> None:
    config = EngineConfig(101, block_size=16, max_model_len=512, async_scheduling=False)
    served = serve(PagedReport().engine, config, [request("r", 20, 8)])
    # 27 tokens are computed of two blocks: 5 are never used, whatever the step.
    assert served.metric("allocation", "internal_fragmentation") == pytest.approx(5 / 32)
    assert served.metric("allocation", "internal_fragmentation_peak") == pytest.approx(5 / 32)
    assert served.metric("allocation", "kind") == "paged:16"
