"""Reading a start-up log: which lines speak of memory, and what they say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from kvplan.sizing.logs.envelopes import unwrapped
from kvplan.sizing.logs.failures import error
from kvplan.sizing.logs.options import DUMPED, configuration, options
from kvplan.sizing.logs.others import asked, at_work, refusal
from kvplan.sizing.logs.service import Report, report
from kvplan.sizing.logs.wordings import WORDINGS, possible

RANKS = (
    re.compile(
        r"\(((?:Vllm)?Worker\w{0,40}(?: rank=\d{1,6})?|"
        r"RayWorker\w{0,40} pid=\d{1,10}(?:, ip=[0-9a-fA-F.:]{1,45})?)[ ,)]"
    ),
    re.compile(r"\(((?:DP)?EngineCore\w{0,40}(?: rank=\d{1,6})?)[ )]"),
    re.compile(r"\[[^\[\]]{0,60}?((?:\b(?:[A-Z]{2,8}_?)?[DTPEC]P\d{1,6} ?){1,6})\]"),
)
"""Whose line it is: ``(Worker_TP1 pid=11)``, ``(VllmWorker rank=1 pid=12)``, ``(RayWorkerWrapper ...`` (those
of two nodes may have one pid); an engine core, which prints its workers' lines behind its own name;
``[09:20:11 DP0 TP0]``."""

SOURCE = re.compile(
    r"(?:\[pod/(?P<pod>[^\]\s]{1,200})\]|(?P<service>[\w.-]{1,100})(?: +\||(?= exited with code))|"
    r"\[?(?P<name>[a-z][a-z0-9.]{0,99}(?:-[a-z0-9.]{1,99}){1,20})\]?(?: [a-z0-9-]{1,63})?"
    r"(?= (?:\(|(?:DEBUG|INFO|WARNING|ERROR)[ :]|\[\d{4}-)))\s"
)
"""Whose line a collector says it is: ``vllm-a-1  | ...`` (compose), ``[pod/vllm-a/server] ...`` (kubectl),
``vllm-a server INFO ...`` (stern), ``[vllm-a] INFO ...`` (kubetail)."""

RANK_WITHIN = 200
"""Characters of a line in which its rank stands, also behind what a log collector puts before it."""

MAX_LINE = 1 << 15
"""Characters of a line that are looked at: printed configurations run to a few thousand."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What one line says.

    Attributes:
        engine: who says it; '' where no line of the log is of one engine alone.
        line: counts from 1.
        values: numbers and words by field name.
        text: the line, of a wording from where it begins.
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
    """A log read: its facts and its reports of work in order, and the lines that no wording knew."""

    facts: tuple[Fact, ...]
    reports: tuple[Report, ...]
    lines: int
    unread: tuple[tuple[int, str], ...]


def read_log(lines: Iterable[str]) -> Reading:
    """Everything the log says about memory.

    Raises:
        DataError: no line was understood, or none but what torch says in another engine.
    """
    facts: list[Fact] = []
    reports: list[Report] = []
    unread: list[tuple[int, str]] = []
    engines: set[str] = set()
    count = 0
    for count, raw in enumerate(lines, 1):
        for text in (whole[:MAX_LINE] for whole in unwrapped(raw)):
            found = list(_facts(text, count))
            said = None if found or asked(text.casefold()) else report(text, count, _source(text))
            if not found and said is None and engines and (failure := _failure(text, count)) is not None:
                found.append(failure)
            engines |= {fact.engine for fact in found if fact.engine}
            facts += found
            if found or not text.strip():
                continue
            if said is None or not engines:  # without a start there is nothing that it is about
                unread.append((count, text))
            else:
                reports.append(said)
    if not engines and (error := refusal(unread, stray=bool(facts))) is not None:
        raise error
    return Reading(tuple(_spoken(facts)), tuple(reports), count, tuple(unread))


def _spoken(facts: list[Fact]) -> Iterator[Fact]:
    """What both engines print is said by the one that spoke before, or by the first that speaks."""
    spoken = next((fact.engine for fact in facts if fact.engine), "")
    for fact in facts:
        spoken = fact.engine or spoken
        yield fact if fact.engine else replace(fact, engine=spoken)


_BY_CUE = tuple((wording.cues[0], wording) for wording in WORDINGS)
"""Each with the longest of what its lines hold."""


def _facts(text: str, line: int) -> Iterator[Fact]:
    lowered = text.casefold()
    if DUMPED in lowered or at_work(lowered):
        return
    rank, source = _rank(text), _source(text)
    mark = configuration(text)
    if mark is not None and (values := options(text)):
        yield Fact("options", mark[1], line, values, text, rank, source)
    taken: set[str] = set()
    for longest, wording in _BY_CUE:
        # Nearly every line is none of nearly all wordings: one look, before any call.
        if longest not in lowered or wording.name in taken or not all(cue in lowered for cue in wording.cues):
            continue
        match = wording.expression.search(text)
        if match is not None:
            values = {
                key: word if key in wording.words else float(word.replace(",", ""))
                for key, word in match.groupdict().items()
            }
            if all(possible(key, value) for key, value in values.items()):
                taken.add(wording.name)
                yield Fact(wording.name, wording.engine, line, values, text[match.start() :], rank, source)


def _failure(text: str, line: int) -> Fact | None:
    """The error that a line of an engine says, where no wording knows it."""
    if (said := error(text)) is None or at_work(text.casefold()):
        return None
    return Fact("error", "", line, {"words": said}, text, _rank(text), _source(text))


def _rank(text: str) -> str:
    for expression in RANKS:
        if (match := expression.search(text, 0, RANK_WITHIN)) is not None:
            return match[1].strip()
    return ""


def _source(text: str) -> str:
    match = SOURCE.match(text)
    return "" if match is None else match["pod"] or match["service"] or match["name"]
