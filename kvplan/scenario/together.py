"""Strategies that go together.

Drafts on engines that load what others have computed, or on ranks; a second pool of SGLang's on its ranks;
host memory of either engine's below ranks. More than two are put together one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Protocol, TypeAlias, runtime_checkable

from kvplan.engine.hicache.strategy import HierarchicalCache
from kvplan.engine.lockstep.strategy import DataParallelAttention
from kvplan.engine.offloading.strategy import Offloading
from kvplan.engine.sglang_states.strategy import RecurrentStates
from kvplan.engine.sglang_windows.strategy import WindowPools
from kvplan.engine.speculation.strategy import Speculation
from kvplan.engine.strategy import Strategy
from kvplan.errors import UsageError
from kvplan.scenario.chosen import Chosen

Change: TypeAlias = Callable[[Strategy], Strategy]


@runtime_checkable
class Draftable(Strategy, Protocol):
    """A strategy whose engines may have drafts, too."""

    def with_drafts(self, drafts: Speculation) -> Strategy:
        """The same, with drafts."""
        ...


@runtime_checkable
class Poolable(Strategy, Protocol):
    """A strategy whose engines may have another pool of SGLang's, too."""

    def with_pool(self, pool: RecurrentStates | WindowPools) -> Strategy:
        """The same, with that pool."""
        ...


def together(asked: Sequence[Strategy | Chosen], *, where: str) -> Chosen:
    """The one strategy that several parts of a scenario ask for.

    Args:
        where: the keys that ask, for errors.

    Raises:
        UsageError: they are not simulated together.
    """
    chosen = [item if isinstance(item, Chosen) else Chosen(item) for item in asked]
    left = list(chosen)
    while len(left) > 1:
        for pair in combinations(left, 2):
            both = _both(*pair)
            if both is not None:
                left = [both, *(item for item in left if item not in pair)]
                break
        else:
            names = " and ".join(item.strategy.name for item in chosen)
            raise UsageError(
                f"{names} are not simulated together",
                where=where,
                hint="simulate them one after the other, and compare",
            )
    return left[0]


def _both(first: Chosen, second: Chosen) -> Chosen | None:
    """Two strategies in one; None where they do not go together."""
    for more, other in ((first, second), (second, first)):
        change = _adding(more.strategy, other.strategy)
        if change is not None:
            return replace(
                other,
                strategy=change(other.strategy),
                assumptions=(*other.assumptions, *more.assumptions),
                warnings=(*other.warnings, *more.warnings),
                instances=more.instances if other.instances is None else other.instances,
                perturbed=None if other.perturbed is None else _after(other.perturbed, change),
            )
    return None


def _adding(more: Strategy, other: Strategy) -> Change | None:
    """What adds one strategy to another; None where they do not go together."""
    if isinstance(more, Speculation) and isinstance(other, Draftable) and not _offloading_ranks(other):

        def drafting(strategy: Strategy) -> Strategy:
            assert isinstance(strategy, Draftable)
            return strategy.with_drafts(more)

        return drafting
    if isinstance(more, RecurrentStates | WindowPools) and isinstance(other, Poolable):

        def pooling(strategy: Strategy) -> Strategy:
            assert isinstance(strategy, Poolable)
            return strategy.with_pool(more)

        return pooling
    if isinstance(more, DataParallelAttention) and isinstance(other, Offloading | HierarchicalCache):
        if isinstance(other, Offloading) and (more.drafts or other.drafts):
            return None

        def hosting(strategy: Strategy) -> Strategy:
            assert isinstance(strategy, Offloading | HierarchicalCache)
            return more.with_host(strategy)

        return hosting
    return None


def _offloading_ranks(strategy: Strategy) -> bool:
    """Whether these are vLLM's ranks above host memory, which are not simulated with drafts."""
    return isinstance(strategy, DataParallelAttention) and isinstance(strategy.host, Offloading)


def _after(
    perturbed: Callable[[Sequence[float]], Strategy], change: Change
) -> Callable[[Sequence[float]], Strategy]:
    return lambda draw: change(perturbed(draw))
