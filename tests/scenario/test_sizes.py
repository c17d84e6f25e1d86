"""Which sizes of pools a plan tries: the cheapest that meet are found, and not by trying all."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from kvplan.scenario.sizes import Prices, Sizes, next_sizes


def searched(prices: Prices, start: Sizes, meets: Callable[[Sizes], bool]) -> tuple[Sizes | None, int]:
    """The cheapest that met, and how many were tried."""
    met: list[Sizes] = []
    missed: list[Sizes] = []
    while (sizes := next_sizes(met, missed, prices, start)) is not None:
        assert min(sizes) >= 1
        assert sizes not in met, "nothing is tried twice"
        assert sizes not in missed, "nothing is tried twice"
        (met if meets(sizes) else missed).append(sizes)
    allowed = [sizes for sizes in met if prices.allowed(sizes)]
    return min(allowed, key=prices.total_cost, default=None), len(met) + len(missed)


@given(need=st.integers(1, 600), most=st.integers(1, 512), start=st.integers(1, 512))
def test_the_fewest_replicas_that_meet_are_found(need: int, most: int, start: int) -> None:
    prices = Prices((1,), (1.0,), most)
    found, tried = searched(prices, (min(start, most),), lambda sizes: sizes[0] >= need)
    assert found == ((need,) if need <= most else None)
    assert tried <= 2 * most.bit_length() + 2


@given(
    least=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    together=st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 40)),
    gpus=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    costs=st.tuples(st.sampled_from([0.1, 1.0, 2.5]), st.sampled_from([0.3, 1.0, 7.0])),
    most=st.integers(2, 24),
    start=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_the_cheapest_two_pools_that_meet_are_found(
    least: Sizes,
    together: tuple[int, int, int],
    gpus: Sizes,
    costs: tuple[float, float],
    most: int,
    start: Sizes,
) -> None:
    """Pools that each must have some size, and may do some work for one another."""
    prices = Prices(gpus, costs, most)
    a, b, work = together

    def meets(sizes: Sizes) -> bool:
        enough = a * sizes[0] + b * sizes[1] >= work
        return enough and all(size >= one for size, one in zip(sizes, least, strict=True))

    every = [(i, j) for i in range(1, most + 1) for j in range(1, most + 1) if prices.allowed((i, j))]
    wanted = min((prices.total_cost(sizes) for sizes in every if meets(sizes)), default=inf)
    found, _ = searched(prices, start if prices.allowed(start) else (1, 1), meets)
    assert (inf if found is None else prices.total_cost(found)) <= wanted * (1 + 1e-9)
    assert found is None or meets(found)


def test_that_no_two_pools_meet_is_not_found_by_trying_all() -> None:
    prices = Prices((1, 1), (1.0, 1.0), 64)
    # One pool would need 70: with 63 of both it misses, which rules out all 63 ways to deal 64 GPUs.
    found, tried = searched(prices, (1, 1), lambda sizes: sizes[1] >= 70)
    assert found is None
    assert tried <= 9
    found, tried = searched(prices, (1, 1), lambda sizes: sizes[1] >= 61)
    assert found == (1, 61)
    assert tried <= 30
