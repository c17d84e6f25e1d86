"""Which facts of a log belong to one start of a server: log files hold retries and other models as well.

A server that starts says its version and its configuration before it measures anything. So a heading after a
measurement begins another start, unless it is another rank's: those print theirs when they come up, and a
node that joins prints the same configuration and speaks of ranks that nobody has spoken of. The lines of two
engines are never one start, however a collector has mixed them.
"""

from __future__ import annotations

from collections.abc import Iterable

from kvplan.sizing.logs.lines import Fact

_HEADINGS = ("version", "options")
_SETTINGS = (*_HEADINGS, "max_model_len", "step_budget", "kv_dtype", "hybrid_block", "page_padding")
"""What is said before anything is measured."""


_FEWEST = 2
"""Measurements that show an engine at work: one line alone may be a library that both use."""


def starts(facts: tuple[Fact, ...]) -> list[tuple[Fact, ...]]:
    """The facts of each start, in the order in which they end; at least one start."""
    engines = {fact.engine for fact in facts}
    parts = [[fact for fact in facts if fact.engine == engine] for engine in sorted(engines)]
    if any(sum(fact.name not in _SETTINGS for fact in part) < _FEWEST for part in parts):
        return _starts(facts)
    return sorted((start for part in parts for start in _starts(part)), key=lambda start: start[-1].line)


def _starts(facts: Iterable[Fact]) -> list[tuple[Fact, ...]]:
    """The starts of one engine."""
    found: list[list[Fact]] = [[]]
    for fact in facts:
        if fact.name in _HEADINGS and _begins(fact, found[-1]):
            found.append([])
        found[-1].append(fact)
    joined = found[:1]
    for start in found[1:]:
        if _same_server(joined[-1], start):
            joined[-1].extend(start)
        else:
            joined.append(start)
    return [tuple(start) for start in joined]


def _begins(heading: Fact, start: list[Fact]) -> bool:
    """Whether a heading is the first line of another start than the one under way."""
    if not any(fact.name not in _SETTINGS for fact in start):
        return False
    return not heading.rank or any(fact.rank == heading.rank and fact.line < heading.line for fact in start)


def _same_server(start: list[Fact], more: list[Fact]) -> bool:
    """Whether ``more`` is what other ranks of the same server say."""
    ranks, others = _measuring(start), _measuring(more)
    if not others or "" in ranks | others or ranks & others:
        return False
    return all(_said(start, name) == _said(more, name) for name in ("model", "tp"))


def _measuring(start: list[Fact]) -> set[str]:
    return {fact.rank for fact in start if fact.name not in _SETTINGS}


def _said(start: list[Fact], option: str) -> float | str | None:
    return next(
        (fact.values[option] for fact in start if fact.name == "options" and option in fact.values), None
    )
