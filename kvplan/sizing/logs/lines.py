"""Reading a start-up log: which lines speak of memory, and what they say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from kvplan.errors import DataError
from kvplan.sizing.logs.wordings import CONFIGURATIONS, OPTION_WORDS, OPTIONS, WORDINGS

RANK = re.compile(
    r"\(((?:EngineCore|Worker|VllmWorker)\w{0,40}(?: rank=\d{1,6})?)[ )]"
    r"|\[[^\[\]]{0,60}?((?:\b(?:[A-Z]{2,8}_?)?[DTPE]P\d{1,6} ?){1,6})\]"
)
"""Whose line it is: ``(Worker_TP1 pid=11)``, ``(VllmWorker rank=1 pid=12)``, ``[09:20:11 DP0 TP0]``."""

SOURCE = re.compile(r"(?:\[pod/([^\]\s]{1,200})\]|([\w.-]{1,100}) +\|)\s")
"""Whose line a collector says it is: ``vllm-a-1  | ...`` (compose), ``[pod/vllm-a/server] ...`` (kubectl)."""

RANK_WITHIN = 200
"""Characters of a line in which its rank stands, also behind what a log collector puts before it."""

NESTED = re.compile(r"_config'?\s*[:=]\s*(?:\{[^{}]*\}|\w{0,60}\([^()]*\))")
"""A configuration inside a configuration, as a draft model's."""

MAX_DEPTH = 4
"""How deep configurations are nested."""

COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
"""What terminals are told about colours and titles; container logs keep it."""

MAX_NUMBER = 1e15
"""Beyond any count or size in a log: such a line was not written by an engine."""

MAX_LINE = 1 << 15
"""Characters of a line that are looked at: printed configurations run to a few thousand."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What one line says.

    Attributes:
        line: counts from 1.
        values: numbers and words by field name.
        rank: which rank or engine process says it; '' where the line does not tell.
        source: which container a log collector names before the line; '' where it names none.
    """

    name: str
    engine: str
    line: int
    values: dict[str, float | str]
    text: str
    rank: str = ""
    source: str = ""

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
        # What both engines print is said by the one that spoke before.
        spoken = facts[-1].engine if facts else "vllm"
        facts += [fact if fact.engine else replace(fact, engine=spoken) for fact in found]
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
    rank, source = _rank(text), _source(text)
    for cue, engine in CONFIGURATIONS:
        if cue in lowered:
            options = _options(text)
            if options:
                yield Fact("options", engine, line, options, text, rank, source)
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
                yield Fact(wording.name, wording.engine, line, values, text, rank, source)


def _rank(text: str) -> str:
    match = RANK.search(text, 0, RANK_WITHIN)
    return "" if match is None else (match.group(1) or match.group(2)).strip()


def _source(text: str) -> str:
    match = SOURCE.match(text)
    return "" if match is None else match.group(1) or match.group(2)


def _options(text: str) -> dict[str, float | str]:
    """The server's options; those of a draft model, nested in them, have the same names and are left out."""
    for _ in range(MAX_DEPTH):
        text, count = NESTED.subn("", text)
        if not count:
            break
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
