"""ServeGen client parameters: a directory or archive of ``chunk-N-trace.csv`` and ``chunk-N-dataset.json``.

Not requests but what to draw them from: per client and window of (usually) 600 s a rate, a CV and a gamma
or Weibull distribution of gaps, and per window of 6 hours empirical distributions of token counts.
Requests are drawn lazily, client streams merged by time; the seed decides. Reuse is unknown.

The data sets hold Python dicts as text; they are parsed as literals, never evaluated.
"""

from __future__ import annotations

import ast
import bisect
import heapq
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from kvplan.errors import DataError
from kvplan.traces.accounting import Accounting
from kvplan.traces.arrivals import MIN_SHAPE, ArrivalProcess
from kvplan.traces.formats.contract import BROKEN, Intake, ReadOptions, TraceFormat
from kvplan.traces.request import Request
from kvplan.traces.source import Source
from kvplan.traces.streams import stream
from kvplan.traces.tokenspace import unknown_request

_CHUNK = re.compile(r"chunk-(\d{1,6})-(trace\.csv|dataset\.json)\Z")
_INPUTS = ("input_tokens", "text_tokens", "image_tokens", "audio_tokens", "video_tokens")
_MAX_CLIENTS = 10_000
_WINDOW_S = 600.0
_MAX_RATE = 1e6


@dataclass(frozen=True, slots=True)
class Window:
    """One stretch of a client's time with a steady process of arrivals."""

    start_s: float
    end_s: float
    process: ArrivalProcess


@dataclass(slots=True)
class Empirical:
    """A distribution over token counts, from ``{count: probability}``."""

    values: list[int]
    cumulative: list[float]

    def draw(self, uniform: float) -> int:
        place = bisect.bisect_left(self.cumulative, uniform * self.cumulative[-1])
        return self.values[min(place, len(self.values) - 1)]


@dataclass(slots=True)
class Client:
    """One client: its windows of arrivals, and the distributions of its token counts by start time."""

    number: int
    windows: list[Window] = field(default_factory=list)
    fields: dict[float, dict[str, Empirical]] = field(default_factory=dict)


def sniff(head: bytes, name: str) -> bool:
    return any(_CHUNK.search(member) is not None for member in name.split("\n"))


def read(source: Source, options: ReadOptions, accounting: Accounting) -> Iterator[Request]:
    """Requests in the order of arrival, drawn from the parameters; a row is one drawn request."""
    admit = Intake(options, accounting).admit
    clients = _clients(source, accounting)
    accounting.note(f"drawn from the parameters of {len(clients)} clients, seed {options.seed}")
    drawn = [_draw(client, options.seed) for client in clients]
    for seconds, prompt_tokens, output_tokens, number in heapq.merge(*drawn):
        index = accounting.rows
        accounting.rows += 1
        arrival_s = seconds * options.time_scale / options.rate_scale
        output_tokens = admit(accounting.rows, arrival_s, prompt_tokens, output_tokens)
        if not output_tokens:
            continue
        accounting.requests += 1
        accounting.without_ids += 1
        yield unknown_request(index, arrival_s, prompt_tokens, output_tokens, 0, f"client-{number}")


def _draw(client: Client, seed: int) -> Iterator[tuple[float, int, int, int]]:
    gaps = stream(seed, f"servegen/arrivals/{client.number}")
    lengths = stream(seed, f"servegen/lengths/{client.number}")
    starts = sorted(client.fields)
    for window in client.windows:
        for now in window.process.times(gaps, window.start_s):
            if now >= window.end_s:
                break
            place = bisect.bisect_right(starts, now) - 1
            tables = client.fields[starts[max(0, place)]]
            prompt = sum(tables[name].draw(lengths.random()) for name in _INPUTS if name in tables)
            yield now, prompt, tables["output_tokens"].draw(lengths.random()), client.number


def _clients(source: Source, accounting: Accounting) -> list[Client]:
    clients: dict[int, Client] = {}
    places: set[str] = set()
    for name, content in source.members(lambda name: _CHUNK.search(name) is not None):
        match = _CHUNK.search(name)
        assert match is not None
        places.add(name[: match.start()])
        if len(places) > 1:
            # Each numbers its clients from 0: together they would be mixed up.
            raise DataError(
                f"clients of several populations: {', '.join(place or '.' for place in sorted(places))}",
                where=source.name,
                hint="read one of these directories",
            )
        number = int(match.group(1))
        if number not in clients and len(clients) >= _MAX_CLIENTS:
            accounting.note(f"only the first {_MAX_CLIENTS:,} clients are used")
            continue
        client = clients.setdefault(number, Client(number))
        if match.group(2) == "trace.csv":
            _read_windows(client, content, name, accounting)
        else:
            _read_fields(client, content, name, accounting)
    usable = [client for _, client in sorted(clients.items()) if client.windows and client.fields]
    if len(usable) < len(clients):
        accounting.note(f"{len(clients) - len(usable)} clients without a rate or lengths are left out")
    return usable


def _read_windows(client: Client, content: bytes, name: str, accounting: Accounting) -> None:
    """``start s, rate, cv, distribution, two parameters`` a line; a rate of 0 is an idle window.

    The second parameter repeats what rate and shape say, except in windows the client was away for a part
    of; there the rate is the one that gives the right number of requests.
    """
    rows: list[tuple[float, float, str, float]] = []
    for line, text in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        parts = text.split(",")
        try:
            start, rate, kind = float(parts[0]), float(parts[1]), parts[3].strip().lower()
            shape = float(parts[4])
            if not (math.isfinite(start) and 0.0 <= rate <= _MAX_RATE and math.isfinite(shape)):
                raise ValueError(text)
        except (ValueError, IndexError):
            accounting.rows += 1
            accounting.drop(f"{name}: window is not start,rate,cv,distribution,shape,scale", line)
            continue
        if rows and start <= rows[-1][0]:
            accounting.rows += 1
            accounting.drop(f"{name}: window starts before the one above it", line)
            continue
        rows.append((start, rate, kind, shape))
    for i, (start, rate, kind, shape) in enumerate(rows):
        if i + 1 < len(rows):
            end = rows[i + 1][0]
        else:
            end = start + (start - rows[i - 1][0] if i else _WINDOW_S)
        if rate > 1e-9:
            known = kind if kind in ("gamma", "weibull") else "poisson"
            client.windows.append(Window(start, end, ArrivalProcess(rate, known, max(MIN_SHAPE, shape))))


def _read_fields(client: Client, content: bytes, name: str, accounting: Accounting) -> None:
    try:
        document = msgspec.json.decode(content, type=dict[str, dict[str, str]])
    except BROKEN as error:
        accounting.rows += 1
        accounting.drop(f"{name}: {error}", 1)
        return
    for start, tables in document.items():
        try:
            found = {key: table for key, text in tables.items() if (table := _empirical(text)) is not None}
            start_s = float(start)
            if not math.isfinite(start_s):
                raise ValueError(start)
        except (ValueError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError):
            accounting.rows += 1
            accounting.drop(f"{name}: distribution is not a dict of numbers", 1)
            continue
        if "output_tokens" in found and any(key in found for key in _INPUTS):
            client.fields[start_s] = found


def _empirical(text: str) -> Empirical | None:
    """The distribution, or ``None`` for an empty one."""
    counts = ast.literal_eval(text)
    if not isinstance(counts, dict):
        raise TypeError("not a dict")
    values = sorted(int(key) for key in counts)
    weights = [float(counts[value]) for value in values]
    if not weights or not 0.0 < sum(weights) < math.inf or min(weights) < 0.0:
        return None
    return Empirical(values, list(itertools.accumulate(weights)))


FORMAT = TraceFormat(
    name="servegen",
    summary="ServeGen client parameters (a directory or archive of chunks), drawn with a seed",
    sniff=sniff,
    read=read,
    keys=frozenset({"chunk-0-trace.csv", "chunk-0-dataset.json"}),
    archives=True,
)
