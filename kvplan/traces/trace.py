"""Opening a trace: find the format, read it lazily, keep the books."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from kvplan.errors import DataError, UsageError
from kvplan.traces import formats, order
from kvplan.traces.accounting import BEYOND_LIMIT, NO_TIME, Accounting
from kvplan.traces.archives import DATA_SUFFIXES
from kvplan.traces.formats.contract import NO_PRIORITY, PRIORITIES, ZERO_OUTPUT, ReadOptions, TraceFormat
from kvplan.traces.formats.instants import per_second, unit_since_1970
from kvplan.traces.formats.unwrap import Unwrapping, bare_lines, unwrapping
from kvplan.traces.request import Request
from kvplan.traces.settings import setting
from kvplan.traces.source import Source, listed, read_once

SORTS = ("window", "full")


class Trace:
    """A trace on disk (or standard input), read as often as asked (standard input, pipes: once).

    Attributes:
        name: the path, or ``<stdin>``.
        format: name of the format.
        report: the books of the reading under way or last finished; filled as requests are consumed.
    """

    def __init__(
        self,
        path: str | Path,
        kind: TraceFormat,
        options: ReadOptions,
        *,
        limit: int | None,
        smooth: bool,
        sort: str,
        piped: Source | None = None,
        by_session: bool = False,
        unwrapping: Unwrapping | None = None,
    ) -> None:
        self.name = piped.name if piped else str(path)
        self.format = kind.name
        self.report = Accounting(self.name, options.strict)
        self._path = path
        self._piped = piped
        self._unread = True
        self._kind = kind
        self._options = options
        self._limit = limit
        self._by_session = by_session
        self._smooth = smooth
        self._sort = sort
        self._unwrapping = unwrapping

    @property
    def block_size(self) -> int | None:
        """Tokens per block id, where the format has ids; sure once the first request was read."""
        if not self._kind.has_ids:
            return None
        return self.report.block_size or self._options.block_size or self._kind.block_size

    @property
    def reuse_known(self) -> bool:
        """Whether every prompt read so far has known content, so that a hit ratio means something."""
        return self._kind.has_ids and not self.report.without_ids

    def requests(self) -> Iterator[Request]:
        """Requests in the order of arrival.

        Raises:
            DataError: no row was understood, the trace is empty, or (strict) a row cannot be used.
        """
        if self._piped is not None and not self._unread:
            what = "standard input" if self.name == "<stdin>" else f"{self.name} is a pipe and"
            raise UsageError(f"{what} was read already", hint="save it to a file first")
        self._unread = False
        self.report = report = Accounting(self.name, self._options.strict)
        return self._read(report)

    def _read(self, report: Accounting) -> Iterator[Request]:
        kind = self._kind
        with self._piped or Source(self._path) as source:
            if self._unwrapping is not None and self._piped is None:
                source.unwrap(self._unwrapping)
            for note in source.notes:
                report.note(note)
            found = kind.read(source, self._options, report)
            in_order = kind.merges and not self._by_session
            if self._limit is not None and not in_order:
                found = islice(found, self._limit)
            if kind.merges or self._sort == "full":
                found = order.sorted_whole(found, None if kind.merges else report)
            else:
                found = order.by_arrival(found, report)
            if self._limit is not None and in_order:
                found = _first(found, self._limit, report)
            found = order.from_first(found) if kind.from_first else order.from_far(found, report)
            if kind.in_ms and self._options.time_scale == 1.0:
                found = order.noting_haste(found, report, self._options.rate_scale)
            if self._smooth:
                found = order.smooth(found)
                report.note("clumped arrivals spread evenly over the gap to the next clump")
            else:
                found = order.noting_clumps(found, report)
            yield from found
            if said := source.recoding.said():
                report.note(said)
            if source.left_out:
                report.note(f"files not read: {listed(source.left_out)}")
            if not report.requests:
                raise self._nothing_read(source, report)
            if self._options.rate is not None and not report.rate_used:
                report.note(
                    "the rate changes nothing, as the trace has times: "
                    f"{setting('rate_scale', 2)} replays it twice as fast"
                )

    def _nothing_read(self, source: Source, report: Accounting) -> DataError:
        if not report.rows:
            return DataError("the trace is empty", where=self.name, hint="it has no rows at all")
        reason, entry = max(report.dropped.items(), key=lambda item: item[1].count)
        line = min(entry.lines)
        message = f"none of the {report.rows:,} rows could be used as {self.format}: {reason}"
        if reason.startswith("number of hash_ids"):
            hint: str | None = f"are its blocks of another size? ({setting('block_size', 'TOKENS')})"
            hint = next((note for note in report.notes if "--block-size" in note), hint)
        elif reason == NO_PRIORITY or "$.priority" in reason:
            hint = PRIORITIES
        elif "hash_ids" in reason:
            hint = "block ids are whole numbers: number the distinct ones from 0"
        elif reason == NO_TIME and self._options.rate is None:
            hint = "no times at all? a rate draws them (--rate, requests a second)"
        elif reason == ZERO_OUTPUT and not self._options.clamp_outputs:
            hint = f"to take them for answers of one token: {setting('clamp_outputs', True)}"
        elif report.far_arrival_s is not None:
            hint = _in_another_unit(report.far_arrival_s, self._options.time_scale)
        else:
            hint = _looks_like(source, self._kind)
        return DataError(message, where=f"{self.name}:{line}", hint=hint)


def open_trace(
    path: str | Path,
    *,
    format: str = "auto",
    limit: int | None = None,
    time_scale: float = 1.0,
    rate_scale: float = 1.0,
    block_size: int | None = None,
    smooth: bool = False,
    strict: bool = False,
    clamp_outputs: bool = False,
    rate: float | None = None,
    seed: int = 0,
    sort: str = "window",
    by_session: bool = False,
) -> Trace:
    """Open a trace and find its format; rows are read when ``requests()`` is consumed.

    Args:
        path: a file (plain or compressed with gzip, zstd, bzip2 or xz), a pipe, ``-``, or a directory, tar
            or zip archive: of sessions, or with one trace in it.
        format: a name of ``formats.names()`` or ``auto``.
        limit: use the first so many requests (of the file; of the merged sessions for weka and the like).
        smooth: spread requests that arrive together over the gap to the next ones.
        by_session: the limit is of the file even where sessions are merged, so that these stay whole.
        sort: ``window`` sorts on the way and refuses rows too far out of order; ``full`` sorts in memory.

    The rest is explained in ``ReadOptions``.

    Raises:
        DataError: no such file, an empty one, an unknown format, or another format than the one named.
        UsageError: an option out of range.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"the limit must be at least 1 request, not {limit}")
    if sort not in SORTS:
        raise UsageError(f"unknown sort {sort!r}", hint=f"one of {', '.join(SORTS)}")
    options = ReadOptions(time_scale, rate_scale, block_size, strict, clamp_outputs, rate, seed)
    declared = None if format == "auto" else formats.get(format)
    if read_once(path):
        piped = Source(path)
        try:
            kind, unwrapping = _settle(piped, declared)
        except BaseException:
            piped.close()
            raise
    else:
        piped = None
        with Source(path) as source:  # opened again when it is read, so that no file stays open till then
            kind, unwrapping = _settle(source, declared)
    return Trace(
        path, kind, options, limit=limit, smooth=smooth, sort=sort, piped=piped, by_session=by_session,
        unwrapping=unwrapping,
    )  # fmt: skip


def _settle(source: Source, declared: TraceFormat | None) -> tuple[TraceFormat, Unwrapping | None]:
    """The format, and how its rows are got at where they are not one a line."""
    kind, way = _unwrapped(source, declared)
    kind = kind or _format_of(source, declared)
    if not kind.archives:
        source.check_only()
    return kind, way


def _unwrapped(source: Source, declared: TraceFormat | None) -> tuple[TraceFormat | None, Unwrapping | None]:
    """The format of a document that holds its rows in another way than one a line; none of other content.

    Formats of documents (sessions, spans) read them as they are.
    """
    head = source.head
    way = unwrapping(head)
    if way is None:
        return None, None
    name = _name(source)
    known = formats.recognise(head, name) if declared is None or not declared.sniff(head, name) else declared
    # Lines that are wrapped a format knows by their names, and could read none of them.
    if known is not None and way is not bare_lines and (known.documents or head.lstrip()[:1] != b"["):
        return None, None
    source.check_only()
    source.unwrap(way)
    kind = formats.recognise(source.head, name)
    if kind is None:
        source.head = head
        return None, None
    if declared is not None and kind is not declared:
        return None, None
    return kind, way


def _name(source: Source) -> str:
    """What formats recognise a file, or the files of an archive, by."""
    return "\n".join(source.members_seen) if source.archive else source.name


def _format_of(source: Source, declared: TraceFormat | None) -> TraceFormat:
    head = source.head
    name = _name(source)
    if not source.archive and not head.strip():
        raise DataError("the trace is empty", where=source.name, hint="it has no rows at all")
    if declared is not None and (source.archive or declared.sniff(head, name)):
        return declared
    looks = formats.recognise(head, name)
    if declared is None:
        if looks is None:
            raise _unrecognised(source)
        return looks
    if looks is not None:
        raise DataError(
            f"this trace is not in the format {declared.name}: it looks like {looks.name}",
            where=f"{source.name}:1",
            hint=f"say {looks.name}, or auto",
        )
    return declared


def _unrecognised(source: Source) -> DataError:
    if source.archive and not source.head.strip():
        names = source.members_seen
        if "xl/workbook.xml" in names:
            return DataError("this is an Excel workbook", where=source.name, hint="save its sheet as CSV")
        return DataError(
            f"no trace among the files in it: {listed(names)}" if names else "there is no file in it",
            where=source.name,
            hint=f"traces are called {', '.join('*' + suffix for suffix in DATA_SUFFIXES)}",
        )
    from kvplan.traces.formats.unread import unrecognised

    return unrecognised(source.head, source.name)


def _in_another_unit(arrival_s: float, time_scale: float) -> str | None:
    """What to do about an arrival too late to be one: the scale that makes it a time since 1970."""
    unit = unit_since_1970(arrival_s)
    if unit is None or unit == "seconds":
        return f"are its times in another unit? a time scale reads them ({setting('time_scale', 'FACTOR')})"
    scale = f"{time_scale / per_second(unit):g}"
    how = setting("time_scale", scale)
    return f"times since 1970 in another unit? a time scale of {scale} reads them ({how})"


def _first(requests: Iterator[Request], limit: int, report: Accounting) -> Iterator[Request]:
    """The first ``limit`` requests; the others move from the requests to the dropped rows."""
    yield from islice(requests, limit)
    left = sum(1 for _ in requests)
    if left:
        report.requests -= left
        report.drop(BEYOND_LIMIT, 0, left)


def _looks_like(source: Source, kind: TraceFormat) -> str | None:
    looks = formats.recognise(source.head, source.name)
    if looks is kind:
        return None  # the format is right, the rows are not
    if looks is not None:
        return f"it looks like {looks.name}"
    return _unrecognised(source).hint
