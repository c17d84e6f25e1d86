"""How ``kvplan trace`` words its answers: plain lines of at most 80 columns, or tables of metrics."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING, Any

from kvplan.cli.options import OutputFormat
from kvplan.cli.output import answer, answer_rows, flat_rows, print_json, visible
from kvplan.reporting.wording import plural
from kvplan.traces.reuse import MAX_LRU_REFERENCES

if TYPE_CHECKING:
    from kvplan.traces.accounting import Accounting


def print_written(target: str, to: str, report: Accounting, losses: list[str], output: OutputFormat) -> None:
    """What was read and written and what the format lost; on stderr when the trace itself is on stdout."""
    document = {
        "schema": "kvplan.trace-written/1",
        "file": target,
        "format": to,
        "accounting": report.to_dict(),
        "losses": losses,
    }
    rows: list[tuple[str, object]] = [
        ("rows read", report.rows),
        ("requests written", report.requests),
        ("rows dropped", report.dropped_rows),
    ]
    rows += [(f"dropped: {reason}", entry.count) for reason, entry in sorted(report.dropped.items())]
    notes = [*report.remarks(), *losses]
    if target == "-":  # stdout holds the trace itself
        for name, value in rows:
            sys.stderr.write(visible(f"{name}: {value:,}\n"))
        for note in notes:
            sys.stderr.write(visible(f"note: {note}\n"))
    elif output is OutputFormat.json:
        print_json(document)
    elif output is OutputFormat.table:
        lines = [f"wrote {target} ({to})", *_accounting_lines(report.to_dict())]
        answer("\n".join([*lines, *(wrapped("  note: ", loss) for loss in losses)]))
    else:
        answer_rows(output, ("item", "value"), [*rows, *(("note", note) for note in notes)])


def print_description(document: dict[str, Any], output: OutputFormat) -> None:
    """A ``kvplan.trace/1`` document in the form asked for."""
    if output is OutputFormat.json:
        print_json(document)
    elif output is OutputFormat.table:
        answer(_described(document))
    else:
        rows = flat_rows({key: document[key] for key in ("trace", "accounting", "statistics")})
        answer_rows(output, ("metric", "value"), rows)


def _described(document: dict[str, Any]) -> str:
    trace, books, found = document["trace"], document["accounting"], document["statistics"]
    lines = [f"{trace['name']} ({trace['format']})"]
    if books is not None:
        lines += _accounting_lines(books)
    time = found["timing"]
    lines += ["", "arrivals"]
    lines += [_row("requests", f"{found['requests']:,}", _sessions(found["sessions"]))]
    lines += [_row("span", f"{time['span_s']:,.1f} s", "")]
    if time["rate_per_s"] is None:
        lines += [_row("rate", "undefined", "all requests arrive at once")]
    else:
        lines += [_row("rate", _rate(time["rate_per_s"]), _minutes(time))]
        lines += [_row("gap CV", f"{time['gap_cv']:.2f}", "1 is Poisson, more is burstier")]
        if time["dispersion"] is not None:
            lines += [_row("IoD", f"{time['dispersion']:.2f}", "variance / mean of the counts per second")]
        clump = f"up to {plural(time['largest_clump'], 'request')} at one instant"
        lines += [_row("distinct times", f"{time['distinct_arrivals']:,}", clump)]
    lines += ["", f"{'tokens':<17}{'mean':>12}{'p50':>12}{'p90':>12}{'p99':>12}{'max':>12}"]
    for name in ("input", "output"):
        of = found[f"{name}_tokens"]
        cells = (_length(of[key]) for key in ("mean", "p50", "p90", "p99"))
        lines.append(f"  {name:<15}{''.join(f'{cell:>12}' for cell in cells)}{of['max']:>12,}")
    return "\n".join([*lines, "", *_reuse_lines(found["reuse"])])


def _accounting_lines(books: dict[str, Any]) -> list[str]:
    dropped = sum(entry["count"] for entry in books["dropped"].values())
    counts = f"{plural(books['rows'], 'row')} = {plural(books['requests'], 'request')} + {dropped:,} dropped"
    lines = [f"  {counts}"]
    for reason, entry in books["dropped"].items():
        places = ", ".join(f"{line:,}" for line in entry["first_lines"] if line)
        more = ", ..." if entry["count"] > len(entry["first_lines"]) else ""
        where = f" (line {places}{more})" if places else ""
        lines.append(wrapped("  dropped: ", f"{entry['count']:,} {reason}{where}"))
    return lines + [wrapped("  note: ", note) for note in books["notes"]]


def _reuse_lines(reuse: Any) -> list[str]:
    if reuse == "unknown":
        return ["reuse            unknown: the trace does not say what the prompts contain"]
    lines = [
        f"reuse of prompts (blocks of {reuse['block_size']:,} tokens)",
        _row(
            "content bound", f"{reuse['token_hit_ratio']:.2%}", "of prompt tokens, with a cache without limit"
        ),
        _row("blocks", f"{reuse['block_refs']:,}", f"{reuse['unique_blocks']:,} distinct"),
    ]
    lru = reuse["lru"]
    if lru is None:
        if reuse["block_refs"] < MAX_LRU_REFERENCES:
            return lines  # --no-lru
        most = f"beyond {MAX_LRU_REFERENCES:,} blocks; a larger --reuse-block has fewer"
        return [*lines, _row("LRU", "not computed", most)]
    for capacity, ratio in lru["token_hit_ratio"].items():
        tokens = int(capacity) * reuse["block_size"]
        lines.append(_row(f"LRU {int(capacity):,}", f"{ratio:.2%}", f"cache of {tokens:,} tokens"))
    if lru["distance_p50_blocks"] is not None:
        spans = f"p50 {lru['distance_p50_blocks']:,}, p90 {lru['distance_p90_blocks']:,} distinct blocks"
        lines.append(_row("reuse distance", "", spans))
    return lines


def _row(name: str, value: str, remark: str) -> str:
    return f"  {name:<15}{value:>14}   {remark}".rstrip()


def _length(tokens: float) -> str:
    """A mean or quantile of lengths; tenths say nothing of a million tokens and need room."""
    return f"{tokens:,.1f}" if tokens < 1e6 else f"{tokens:,.0f}"


def _sessions(count: int) -> str:
    return f"in {count:,} sessions" if count else ""


def _rate(per_s: float) -> str:
    """Of a trace that hardly has one a second, an hour's: 0.00 a second says nothing."""
    return f"{per_s:,.2f} /s" if per_s >= 0.1 else f"{3600 * per_s:,.3g} /h"


def _minutes(time: dict[str, Any]) -> str:
    if time["busiest_minute"] is None:
        return ""
    return f"{time['quietest_minute']:,} to {time['busiest_minute']:,} a minute"


def wrapped(label: str, text: str) -> str:
    """``text`` after ``label``, folded to 80 columns under itself."""
    return textwrap.fill(text, 80, initial_indent=label, subsequent_indent=" " * len(label))
