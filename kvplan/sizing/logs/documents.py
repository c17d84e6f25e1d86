"""Logs that came as one JSON document, or with the newest line first: the lines that an engine printed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise, zip_longest

from kvplan.sizing.logs.envelopes import messages, unwrapped

_HEAD = 1 << 12
"""Bytes from which a coding is told."""

_PART = re.compile(r"(?P<head>\S{10,60} (?P<stream>stdout|stderr) )(?P<more>[PF]) (?P<text>.*)")
"""A line of a container runtime (CRI), which cuts long ones: all parts but the last are marked ``P``."""

_DOCKER_PART = 1 << 14
"""Bytes after which docker cuts a line; the part that ends it has its line break."""

_TIME = re.compile(r"\b(\d\d-\d\d)[T ](\d\d:\d\d:\d\d)")
_TIME_WITHIN = 200
"""Characters of a line in which its time stands."""

_FEWEST = 3
"""Steps back in time that show a log to be in reverse: ranks that print together make a few."""

_NARROWEST, _WIDEST = 40, 500
"""Characters that terminals are wide."""

_BEGINS = re.compile(
    r"\s*$|\s*\((?:\w[\w :.-]{0,100} )?(?:pid|rank)=|\s*\[(?:\d{4}-|pod/|[A-Z])|"
    r"\s*(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)\b|\d{4}-\d\d-\d\d|[\w.-]{1,100} +\| |\{|"
    r"Traceback |\s+File \"|Killed$"
)
"""How a line of a log begins, and not what is left of one."""


def decoded(raw: bytes) -> str:
    """The text of a log; of wide characters (PowerShell redirects as UTF-16) also without a mark."""
    if raw.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        coding = "utf-32"
    elif raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        coding = "utf-16"
    else:
        even, odd = raw[:_HEAD:2].count(0), raw[1:_HEAD:2].count(0)
        few = len(raw[:_HEAD]) // 8
        coding = "utf-16-le" if odd > few >= even else "utf-16-be" if even > few >= odd else "utf-8"
    return raw.decode(coding, errors="replace")


def lines_of(text: str) -> list[str]:
    """The lines of a log: those in a JSON document's fields, where the whole of it is one."""
    if text[:1000].lstrip("\ufeff \t\r\n")[:1] in ("[", "{"):
        try:
            document = json.loads(text.lstrip("\ufeff"))
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, (list, dict)):
            found = [line for message in messages(document) for line in message.splitlines()]
            if found:
                return found
    return _once(_whole(_unbroken(text.splitlines())))


def _unbroken(lines: list[str]) -> list[str]:
    """Lines that a terminal broke at its width in one, where they end; an empty one for each part before.

    Broken are lines as long as the longest, of which there are several, before what begins as no log's line.
    """
    width = max(map(len, lines), default=0)
    if not _NARROWEST <= width <= _WIDEST:
        return lines
    ends = {line for line, after in pairwise(lines) if len(line) == width and not _BEGINS.match(after)}
    if len(ends) < _FEWEST:
        return lines
    found: list[str] = []
    begun = ""
    for line, after in zip_longest(lines, lines[1:], fillvalue=""):
        # The space at which it broke is not copied.
        if len(line) in (width - 1, width) and not _BEGINS.match(after):
            begun += line.ljust(width)
            found.append("")
        else:
            found.append(begun + line)
            begun = ""
    return found


def _once(lines: list[str]) -> list[str]:
    """Lines of which a log has each twice in a row (two handlers print them), once; others as they are."""
    runs = [(line, len(list(run))) for line, run in groupby(lines)]
    said = [count for line, count in runs if line.strip()]
    if len(said) < _FEWEST or any(count % 2 for count in said):
        return lines
    return [text for line, count in runs for text in _halved(line, count)]


def _halved(line: str, count: int) -> list[str]:
    """Every second of equal lines; an empty one stands for each that is left out."""
    return [line, ""] * (count // 2) if line.strip() else [line] * count


def _docker_part(line: str) -> tuple[str, str] | None:
    """The stream and the text of a line that docker has cut; ``None`` of other lines."""
    if len(line) < _DOCKER_PART or not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    text, stream = found.get("log"), found.get("stream")
    if not isinstance(text, str) or not isinstance(stream, str) or text.endswith("\n"):
        return None
    return (stream, text) if len(text.encode()) >= _DOCKER_PART else None


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
        elif (cut := _docker_part(line)) is not None:
            begun.setdefault(cut[0], []).append(cut[1])
            found.append("")
        elif begun and part is None and (stream := _ends(line, begun)) is not None:
            found.append("".join([*begun.pop(stream), *unwrapped(line)]))
        else:
            found.append(line)
    return [*found, *("".join(parts) for parts in begun.values())]


def _ends(line: str, begun: Iterable[str]) -> str | None:
    """The stream of which a line of docker's is the last part."""
    return next((stream for stream in begun if f'"stream":"{stream}"' in line.replace(" ", "")), None)


def newest_first(lines: Sequence[str]) -> bool:
    """Whether their times run backwards, as collectors export them."""
    times = [match.groups() for line in lines if (match := _TIME.search(line, 0, _TIME_WITHIN))]
    if len(times) < 2 or times[-1] >= times[0]:
        return False
    back = sum(later < earlier for earlier, later in pairwise(times))
    return back >= _FEWEST and back > sum(later > earlier for earlier, later in pairwise(times))
