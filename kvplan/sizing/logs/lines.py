"""Reading a start-up log: which lines speak of memory, and what they say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kvplan.errors import DataError
from kvplan.sizing.logs.wordings import CONFIGURATIONS, OPTION_WORDS, OPTIONS, WORDINGS

COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
"""What terminals are told about colours and titles; container logs keep it."""

MAX_NUMBER = 1e15
"""Beyond any count or size in a log: such a line was not written by an engine."""

MAX_LINE = 1 << 15
"""Characters of a line that are looked at: printed configurations run to a few thousand."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What one line says. ``values`` holds numbers and words by field name; ``line`` counts from 1."""

    name: str
    engine: str
    line: int
    values: dict[str, float | str]
    text: str

    def number(self, key: str) -> float:
        """A value known to be numeric."""
        value = self.values[key]
        assert isinstance(value, float)
        return value


@dataclass(frozen=True, slots=True)
class Reading:
    """A log read: its facts in order, and the lines that no wording knew."""

    facts: tuple[Fact, ...]
    lines: int
    unread: tuple[tuple[int, str], ...]


def read_log(lines: Iterable[str]) -> Reading:
    """Everything the log says about memory.

    Raises:
        DataError: no line was understood.
    """
    facts: list[Fact] = []
    unread: list[tuple[int, str]] = []
    count = 0
    for count, raw in enumerate(lines, 1):
        text = COLOURS.sub("", raw[:MAX_LINE]).strip("\r\n\ufeff")
        found = list(_facts(text, count))
        facts += found
        if not found and text.strip():
            unread.append((count, text))
    if not facts:
        raise DataError(
            "no line of this log was understood",
            hint="paste the start-up of vLLM or SGLang, from the engine's configuration to the first request",
        )
    return Reading(tuple(facts), count, tuple(unread))


def _facts(text: str, line: int) -> Iterator[Fact]:
    lowered = text.casefold()
    for cue, engine in CONFIGURATIONS:
        if cue in lowered:
            options = _options(text)
            if options:
                yield Fact("options", engine, line, options, text)
            break
    taken: set[str] = set()
    for wording in WORDINGS:
        if wording.name in taken or wording.cue not in lowered:
            continue
        match = wording.expression.search(text)
        if match is not None:
            values = {
                key: word if key in wording.words else float(word.replace(",", ""))
                for key, word in match.groupdict().items()
            }
            if all(_possible(key, value) for key, value in values.items()):
                taken.add(wording.name)
                yield Fact(wording.name, wording.engine, line, values, text)


def _options(text: str) -> dict[str, float | str]:
    found: dict[str, float | str] = {}
    for name, expression in OPTIONS.items():
        match = expression.search(text)
        if match is not None and match.group(1) not in ("None", "auto"):
            value = match.group(1) if name in OPTION_WORDS else float(match.group(1))
            if _possible(name, value):
                found[name] = value
    return found


def _possible(key: str, value: float | str) -> bool:
    """Whether an engine can have meant it: sizes may be missing (negative), counts may not."""
    return isinstance(value, str) or (
        abs(value) < MAX_NUMBER and (value >= 0 or key.endswith(("gib", "mib")))
    )
