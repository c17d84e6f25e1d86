"""Logs that came as one JSON document, or with the newest line first: the lines that an engine printed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from kvplan.sizing.logs.envelopes import printed

_PART = re.compile(r"(?P<head>\S{10,60} (?P<stream>stdout|stderr) )(?P<more>[PF]) (?P<text>.*)")
"""A line of a container runtime (CRI), which cuts long ones: all parts but the last are marked ``P``."""

_TIME = re.compile(r"\b(\d\d-\d\d)[T ](\d\d:\d\d:\d\d)")
_TIME_WITHIN = 200
"""Characters of a line in which its time stands."""

_FEWEST = 3
"""Steps back in time that show a log to be in reverse: ranks that print together make a few."""

_MAX_DEPTH = 20


def lines_of(text: str) -> list[str]:
    """The lines of a log: those in a JSON document's fields, where the whole of it is one."""
    if text[:1000].lstrip("\ufeff \t\r\n")[:1] in ("[", "{"):
        try:
            document = json.loads(text.lstrip("\ufeff"))
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, (list, dict)):
            found = [line for message in _messages(document, _MAX_DEPTH) for line in message.splitlines()]
            if found:
                return found
    return _whole(text.splitlines())


def _whole(lines: Iterable[str]) -> list[str]:
    """Lines with those that a runtime cut in one, where it ends; an empty one stands for each part before."""
    found: list[str] = []
    begun: dict[str, list[str]] = {}
    for line in lines:
        part = _PART.fullmatch(line)
        if part is not None and part["more"] == "P":
            begun.setdefault(part["stream"], []).append(part["text"])
            found.append("")
        elif part is not None and part["stream"] in begun:
            found.append(f"{part['head']}F {''.join(begun.pop(part['stream']))}{part['text']}")
        else:
            found.append(line)
    return [*found, *("".join(parts) for parts in begun.values())]


def _messages(node: Any, depth: int) -> Iterator[str]:
    """What was printed, of queries' answers (Loki, Elasticsearch, CloudWatch, Datadog) and of lists."""
    if depth == 0:
        return
    if isinstance(node, dict):
        message = printed(node)
        if message is not None:
            yield message
            return
        for value in node.values():
            if isinstance(value, (list, dict)):
                yield from _messages(value, depth - 1)
    elif isinstance(node, list):
        if (
            len(node) in (2, 3)
            and isinstance(node[0], str)
            and node[0].isdigit()
            and isinstance(node[1], str)
        ):
            yield node[1]  # Loki: [nanoseconds, line]
            return
        for item in node:
            if isinstance(item, (list, dict)):
                yield from _messages(item, depth - 1)


def newest_first(lines: Sequence[str]) -> bool:
    """Whether their times run backwards, as collectors export them."""
    times = [match.groups() for line in lines if (match := _TIME.search(line, 0, _TIME_WITHIN))]
    if len(times) < 2 or times[-1] >= times[0]:
        return False
    back = sum(later < earlier for earlier, later in pairwise(times))
    return back >= _FEWEST and back > sum(later > earlier for earlier, later in pairwise(times))
