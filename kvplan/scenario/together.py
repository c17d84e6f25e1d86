"""Strategies that go together: drafts on engines that also load what others have computed, or are ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from kvplan.engine.speculation.strategy import Speculation
from kvplan.engine.strategy import Strategy
from kvplan.errors import UsageError
from kvplan.scenario.chosen import Chosen


@runtime_checkable
class Draftable(Strategy, Protocol):
    """A strategy whose engines may have drafts, too."""

    def with_drafts(self, drafts: Speculation) -> Strategy:
        """The same, with drafts."""
        ...


def together(asked: Sequence[Strategy | Chosen]) -> Chosen:
    """The one strategy that several parts of a scenario ask for.

    Raises:
        UsageError: they are not simulated together.
    """
    chosen = [item if isinstance(item, Chosen) else Chosen(item) for item in asked]
    drafts = next((item for item in chosen if isinstance(item.strategy, Speculation)), None)
    other = next((item for item in chosen if isinstance(item.strategy, Draftable)), None)
    if len(chosen) > 2 or drafts is None or other is None:
        names = " and ".join(item.strategy.name for item in chosen)
        raise UsageError(
            f"{names} are not simulated together", hint="simulate them one after the other, and compare"
        )
    speculation = drafts.strategy
    assert isinstance(speculation, Speculation)

    def drafting(strategy: Strategy) -> Strategy:
        assert isinstance(strategy, Draftable)
        return strategy.with_drafts(speculation)

    return replace(
        other,
        strategy=drafting(other.strategy),
        assumptions=(*other.assumptions, *drafts.assumptions),
        warnings=(*other.warnings, *drafts.warnings),
        perturbed=None if other.perturbed is None else _after(other.perturbed, drafting),
    )


def _after(
    perturbed: Callable[[Sequence[float]], Strategy], change: Callable[[Strategy], Strategy]
) -> Callable[[Sequence[float]], Strategy]:
    return lambda draw: change(perturbed(draw))
