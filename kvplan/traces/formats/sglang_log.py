"""Request logs of SGLang servers (``--log-requests``), as text and as JSON (``--log-requests-format json``).

A request is received in one line and finished in another, which says how long it and its answer were. It
arrives when it is received; one that was received before the log begins, when it was finished less what it
took. Other lines of the server are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from kvplan.traces.accounting import Accounting
from kvplan.traces.formats.contract import BROKEN, MAX_ARRIVAL_S, Intake, ReadOptions, TraceFormat
from kvplan.traces.formats.instants import TICKS_PER_S, Instants
from kvplan.traces.request import Request
from kvplan.traces.source import Source
from kvplan.traces.tokenspace import unknown_request

_TEXT = re.compile(
    r"\[(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)[^\[\]]{0,40}\] (?P<event>Receive|Finish): (?P<rest>obj=.*)"
)
_EVENT = re.compile(r'\{"timestamp": ?".{0,200}?"event": ?"request\.(?:received|finished)"')
_SNIFF = re.compile(rf"\] (?:Receive|Finish): obj=|{_EVENT.pattern}".encode())
_RID = re.compile(r"\brid='([^']{1,100})'")
_ID = re.compile(r"'id': '([^']{1,100})'")
_NUMBERS = {
    name: re.compile(rf"'{name}': (\d{{1,12}}(?:\.\d{{1,20}})?)")
    for name in ("prompt_tokens", "completion_tokens", "e2e_latency")
}
_MOST_IDS = 8
"""Ids of a line that are kept: what a client says may look like some."""


class _Line(NamedTuple):
    """What one line says of requests.

    Attributes:
        ids: by which the request may be known; one where it is finished.
        said: how long it was, of one that is finished; ``None`` where it says none.
    """

    ticks: int
    finished: bool
    ids: list[str]
    said: dict[str, float] | None = None


def sniff(head: bytes, name: str) -> bool:
    return _SNIFF.search(head) is not None


def read(source: Source, options: ReadOptions, accounting: Accounting) -> Iterator[Request]:
    """Requests in the order in which they were finished; those that never were are dropped rows."""
    admit = Intake(options, accounting).admit
    clock = Instants()
    received: dict[str, tuple[int, int]] = {}
    finished: set[int] = set()
    start: int | None = None
    others = late = 0
    for number, raw in source.lines():
        line = _said(raw.decode("utf-8", "replace"), clock)
        if line is None:
            others += 1
            continue
        if not line.finished:
            for name in line.ids:
                received.setdefault(name, (line.ticks, number))
            continue
        index = accounting.rows
        accounting.rows += 1
        came = received.pop(line.ids[0], None) if line.ids else None
        if came is not None:
            finished.add(came[1])
        said = line.said or {}
        if any(not said.get(name, 0.5).is_integer() for name in ("prompt_tokens", "completion_tokens")):
            accounting.drop("does not say how many tokens it had", number)
            continue
        late += came is None
        ticks = line.ticks - round(said.get("e2e_latency", 0.0) * TICKS_PER_S) if came is None else came[0]
        start = ticks if start is None else start
        arrival_s = (ticks - start) / TICKS_PER_S * options.time_scale / options.rate_scale
        prompt_tokens = int(said["prompt_tokens"])
        output_tokens = admit(number, abs(arrival_s), prompt_tokens, int(said["completion_tokens"]))
        if not output_tokens:
            continue
        accounting.requests += 1
        accounting.without_ids += 1
        yield unknown_request(index, arrival_s, prompt_tokens, output_tokens, 0, None)
    for number in sorted({place for _, place in received.values()} - finished):
        accounting.rows += 1
        accounting.drop("received, and not finished in this log", number)
    if others:
        accounting.note(f"lines of the server that are of no request: {others:,}")
    if late:
        accounting.note(
            f"received before the log begins, and placed by how long they took: {late:,} requests"
        )


def _said(text: str, clock: Instants) -> _Line | None:
    """What a line says of a request; ``None`` of any other line."""
    if (begin := _EVENT.search(text)) is not None:
        return _of_json(text[begin.start() :], clock)
    match = _TEXT.search(text)
    if match is None:
        return None
    rest = match["rest"]
    try:
        ticks = clock.ticks(match["time"])
    except ValueError:
        return None
    if match["event"] == "Receive":
        return _Line(ticks, False, _RID.findall(rest)[:_MOST_IDS])
    # Behind the texts of prompt and answer, which may be anything.
    about = rest[max(rest.rfind("'meta_info': "), 0) :]
    found = {name: expression.search(about) for name, expression in _NUMBERS.items()}
    said = {name: float(number[1]) for name, number in found.items() if number is not None}
    return _Line(ticks, True, _ID.findall(about)[:1] or _RID.findall(rest)[:1], said)


def _of_json(text: str, clock: Instants) -> _Line | None:
    try:
        found = msgspec.json.decode(text.strip())
        ticks = clock.ticks(found["timestamp"])
    except (*BROKEN, KeyError, TypeError):
        return None
    names = found.get("rid")
    ids = [str(name) for name in (names if isinstance(names, list) else [names])][:_MOST_IDS]
    if found.get("event") == "request.received":
        return _Line(ticks, False, ids)
    about = _meta_info(found.get("out"))
    numbers = {name: about.get(name) for name in _NUMBERS}
    said = {
        name: float(number)
        for name, number in numbers.items()
        if isinstance(number, (int, float)) and not isinstance(number, bool) and 0 <= number <= MAX_ARRIVAL_S
    }
    return _Line(ticks, True, [str(about["id"])] if "id" in about else ids[:1], said)


def _meta_info(out: Any) -> dict[str, Any]:
    about = out.get("meta_info") if isinstance(out, dict) else None
    return about if isinstance(about, dict) else {}


FORMAT = TraceFormat(
    name="sglang",
    summary="request log of an SGLang server (--log-requests), as text or JSON",
    sniff=sniff,
    read=read,
    keys=frozenset(),
    merges=True,
    from_first=True,
)
