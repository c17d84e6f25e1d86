"""Which facts of a log belong to one start of a server: log files hold retries and other models as well.

A server that starts says its version and its configuration before it measures anything. So a heading after a
measurement begins another start, unless it is another rank's: those print theirs when they come up, and a
node that joins prints the same configuration and speaks of ranks that nobody has spoken of. The lines of two
engines are never one start, however a collector has mixed them, nor are those of two containers that it names
before the lines, unless they are nodes of one server. Servers mixed without names cannot be parted; that they
are mixed shows where one rank names two models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from kvplan.sizing.logs.lines import Fact
from kvplan.sizing.logs.options import configuration
from kvplan.sizing.logs.service import Report

_HEADINGS = ("version", "options")
_SETTINGS = (
    *_HEADINGS, "max_model_len", "step_budget", "kv_dtype", "block_size", "hybrid_block", "hybrid_off",
    "page_padding", "share_cut", "shards",
)  # fmt: skip
"""What is said before anything is measured."""


_FAILURES = ("error", "stopped", "killed")
"""What is said in tracebacks and by parents, whichever rank it is about."""

_DIGITS = re.compile(r"\d+")

_FEWEST = 2
"""Measurements that show an engine at work: one line alone may be a library that both use."""


def starts(facts: tuple[Fact, ...]) -> list[tuple[Fact, ...]]:
    """The facts of each start, in the order in which they end; at least one start."""
    found = [
        start
        for source in _apart(_attributed(facts), lambda fact: fact.source)
        for engine in _engines(source)
        for start in _starts(engine)
    ]
    found.sort(key=lambda start: start[-1].line)
    return [tuple(start) for start in _joined(found)]


def reports_of(
    start: tuple[Fact, ...], starts: Iterable[tuple[Fact, ...]], reports: Iterable[Report]
) -> list[Report]:
    """What the server of a start says at work: until the next one of its container."""
    sources = {fact.source for fact in start}
    first = start[0].line
    later = [other[0].line for other in starts if other[0].line > first and other[0].source in sources]
    return [
        item for item in reports
        if item.source in sources and first < item.line and all(item.line < line for line in later)
    ]  # fmt: skip


def mixed_models(start: tuple[Fact, ...]) -> list[str]:
    """The models that one rank was started with, if there are several: the lines of as many servers.

    Only lines of one wording are compared: an engine may name the folder into which the model was fetched.
    """
    said: dict[tuple[str, str], list[str]] = {}
    for fact in start:
        if fact.name == "options" and "model" in fact.values:
            wording, _ = configuration(fact.text) or ("", "")
            models, model = said.setdefault((fact.rank, wording), []), str(fact.values["model"])
            if model not in models:
                models.append(model)
    return next((models for models in said.values() if len(models) > 1), [])


def _attributed(facts: Iterable[Fact]) -> Iterator[Fact]:
    """Facts, failures that no container is named for as those of the container that spoke before.

    So a shell says what became of its child.
    """
    before = ""
    for fact in facts:
        yield fact if fact.source or fact.name not in _FAILURES else replace(fact, source=before)
        before = fact.source or before


def _apart(facts: Iterable[Fact], key: Callable[[Fact], str]) -> list[list[Fact]]:
    found: dict[str, list[Fact]] = {}
    for fact in facts:
        found.setdefault(key(fact), []).append(fact)
    return list(found.values())


def _engines(facts: list[Fact]) -> list[list[Fact]]:
    """The facts of each engine; all together where one of them is a stray line."""
    parts = _apart(facts, lambda fact: fact.engine)
    if any(sum(fact.name not in _SETTINGS for fact in part) < _FEWEST for part in parts):
        return [facts]
    return parts


def _starts(facts: list[Fact]) -> list[list[Fact]]:
    """The starts of one engine in one container."""
    found: list[list[Fact]] = [[]]
    for fact in facts:
        if fact.name in _HEADINGS and _begins(fact, found[-1]):
            found.append([])
        found[-1].append(fact)
    return _joined(found)


def _joined(starts: list[list[Fact]]) -> list[list[Fact]]:
    """Starts, with the nodes of a server in one."""
    joined = starts[:1]
    for start in starts[1:]:
        if _same_server(joined[-1], start):
            joined[-1] = sorted(joined[-1] + start, key=lambda fact: fact.line)
        else:
            joined.append(start)
    return joined


def _begins(heading: Fact, start: list[Fact]) -> bool:
    """Whether a heading is the first line of another start than the one under way."""
    if not any(fact.name not in (*_SETTINGS, "error") for fact in start):
        return _said_again(heading, start)
    return not heading.rank or any(fact.rank == heading.rank and fact.line < heading.line for fact in start)


def _said_again(heading: Fact, start: list[Fact]) -> bool:
    """Whether a server that measured nothing ended in an error, as its heading comes once more."""
    return _failed(start) and any(
        fact.rank == heading.rank and _wording(fact) == _wording(heading)
        for fact in start
        if fact.name == heading.name
    )


def _wording(heading: Fact) -> str:
    """Which line a heading is: an engine may say its version or its configuration in several."""
    mark = configuration(heading.text) if heading.name == "options" else None
    return _DIGITS.sub("", heading.text) if mark is None else mark[0]


def _failed(start: list[Fact]) -> bool:
    return any(fact.name in _FAILURES for fact in start)


def _same_server(start: list[Fact], more: list[Fact]) -> bool:
    """Whether ``more`` is what other ranks of the same server say."""
    ranks, others = _measuring(start), _measuring(more)
    if start[0].engine != more[0].engine or not others or "" in ranks | others or ranks & others:
        return False
    if not ranks and _failed(start):
        return False
    if not (
        _is_headed(start) and _is_headed(more)
    ):  # a node that only works for another says no configuration
        return True
    return all(_said(start, name) == _said(more, name) for name in ("model", "tp"))


def _is_headed(start: list[Fact]) -> bool:
    return any(fact.name in _HEADINGS for fact in start)


def _measuring(start: list[Fact]) -> set[str]:
    return {fact.rank for fact in start if fact.name not in (*_SETTINGS, *_FAILURES)}


def _said(start: list[Fact], option: str) -> float | str | None:
    return next(
        (fact.values[option] for fact in start if fact.name == "options" and option in fact.values), None
    )
