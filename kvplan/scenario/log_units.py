"""Units that a log leaves open: found where numbers leave no doubt, refused where they make no sense."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kvplan.errors import DataError
from kvplan.scenario.log_columns import Columns, candidates
from kvplan.scenario.measured import Measured
from kvplan.traces.columns import Column
from kvplan.traces.formats.instants import per_second, unit_since_1970
from kvplan.traces.formats.table import parse_number

Records = list[tuple[str, dict[str, Any]]]
"""(where it stands, name to value) of every request."""

_DATES_S = 9e8, 4.2e9
"""1998 to 2103: moments beyond are no dates."""
MOST_TPOT_S, LEAST_TPOT_S = 1.0, 1e-4
"""A median time per output token beyond these is no engine's: the unit is another one."""
IDLE = 0.02
"""Requests in flight on average below which arrivals without a unit are in another one."""
SLOW_IDLE, SLOW_PER_S = 0.5, 0.1
"""The same, and requests a second, where the durations beside them say a smaller unit: who logs those in
milliseconds logs arrivals so too, and then fifty requests in flight, ten of them sent a second, look like a
twentieth of one, sent every hundred seconds."""


def is_float(text: object) -> bool:
    """Whether a cell is a number, or a text that is one; what Python alone would read as one is none."""
    try:
        if isinstance(text, str):
            parse_number(text)
        else:
            float(text)  # type: ignore[arg-type]  # a TypeError says no
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def arrival_column(records: Records, columns: Columns, header: Sequence[str]) -> Column:
    """Which moment requests arrive at: the likeliest that is told by the clock of the other moments.

    Servers log the time of day at which a request came beside moments of a clock of their own, which is long
    behind it.
    """
    others = [columns[quantity].name for quantity in ("first", "end") if quantity in columns]
    for column in candidates("arrival", header):
        waits = sorted(
            float(record[other]) - float(record[column.name])
            for _, record in records
            for other in others
            if is_float(record.get(other)) and is_float(record.get(column.name))
        )
        if not waits or waits[len(waits) // 2] >= 0.0:
            return column
    return columns["arrival"]


def epoch_unit(arrivals: Sequence[float], column: Column, notes: list[str]) -> float:
    """What unnamed moments count, in seconds: large ones count fractions of them since 1970."""
    if column.labelled or not arrivals:
        return 1.0
    least = min(arrivals)
    name = unit_since_1970(least)
    if name is None or name == "seconds":
        return 1.0
    unit = 1.0 / per_second(name)
    if not _DATES_S[0] <= least * unit <= _DATES_S[1]:
        return 1.0
    notes.append(f"{column.name} is taken to be in {name} since 1970")
    return unit


def check_durations(rows: Sequence[Measured], columns: Columns, where: str) -> None:
    """Refuse times that no engine needs: their unit is another one.

    Raises:
        DataError: the median time per output token is beyond anything that is served, or the time to the
            first token may be in the unit that the time per output token says and it does not.
    """
    ttft, step = columns.get("ttft"), columns.get("tpot")
    if ttft is not None and step is not None and step.labelled and step.unit < 1.0 and not ttft.labelled:
        # Nothing else bounds it: the end-to-end time is made of the two.
        typical = sorted(row.ttft_s for row in rows)[len(rows) // 2] if rows else 0.0
        if typical >= 1.0:
            raise DataError(
                f"{step.name} says its unit, and {ttft.name} does not: {typical:g} in the median",
                where=where, hint=f"name it {ttft.name}{step.name[step.name.rindex('_') :]} or {ttft.name}_s",
            )  # fmt: skip
    middle = _beyond(rows)
    if middle is None:
        return
    names = ", ".join(
        column.name for name, column in columns.items() if name in ("ttft", "e2e", "tpot", "end")
    )
    raise _another_unit(middle, where, f"say the unit in the names of {names}: _s, _ms, _us or _ns")


def check_seconds(rows: Sequence[Measured], where: str) -> None:
    """Refuse times of a format that has seconds where they are none.

    Raises:
        DataError: the median time per output token is beyond anything that is served.
    """
    middle = _beyond(rows)
    if middle is not None:
        raise _another_unit(middle, where, "times of this format are seconds: give the file as written")


def check_streamed(rows: Sequence[Measured], where: str) -> None:
    """Refuse answers that came as a whole: their first token has no time of its own.

    Raises:
        DataError: most of those with several tokens have their first with their last.
    """
    several = [row for row in rows if row.output_tokens > 1]
    whole = sum(row.e2e_s <= row.ttft_s for row in several)
    if whole > len(several) / 2:
        raise whole_answers(f"{whole:,} of {len(several):,} requests", where)


def agreed(rows: Sequence[Measured], notes: list[str]) -> list[Measured]:
    """The rows with the server's own times if each has one, and none is beyond TTFT; else without any."""
    strange = sum(row.prefill_s is None or row.prefill_s > row.ttft_s for row in rows)
    if not strange:
        return list(rows)
    if any(row.prefill_s is not None for row in rows):
        notes.append(
            f"the server's own times are not used: of {strange:,} requests they are missing, or longer than "
            "what the client saw"
        )
    return [replace(row, prefill_s=None) for row in rows]


def whole_answers(which: str, where: str) -> DataError:
    """What is wrong with a run whose answers were not streamed."""
    return DataError(
        f"the first token of {which} came with the last: the answers were not streamed", where=where,
        hint='benchmark with streaming on ("stream": true; SGLang without --disable-stream, aiperf with '
        "--streaming)",
    )  # fmt: skip


def _beyond(rows: Sequence[Measured]) -> float | None:
    """The median time per output token if no engine's is; None if one's may be."""
    found = sorted(tpot for row in rows if (tpot := row.tpot_s) is not None and tpot > 0.0)
    middle = found[len(found) // 2] if found else LEAST_TPOT_S
    return None if LEAST_TPOT_S <= middle <= MOST_TPOT_S else middle


def _another_unit(middle: float, where: str, hint: str) -> DataError:
    size = "long" if middle > MOST_TPOT_S else "short"
    return DataError(
        f"an output token takes {middle:.3g} s in the median, too {size} for any engine",
        where=where, hint=hint,
    )  # fmt: skip


def check_arrivals(rows: Sequence[Measured], columns: Columns, epoch: float, where: str) -> None:
    """Refuse arrivals without a unit that leave the engine idle for longer than a run would.

    Raises:
        DataError: they are in another unit, or should say that they are in seconds.
    """
    column = columns["arrival"]
    if column.labelled or epoch != 1.0 or len(rows) < 2:
        return
    first, last = (edge(row.arrival_s for row in rows) for edge in (min, max))
    if _DATES_S[0] <= first <= _DATES_S[1]:
        return  # dates, or seconds since 1970
    busy = math.fsum(row.e2e_s for row in rows)
    span = last - first
    smaller = any(columns[name].unit < 1.0 for name in ("ttft", "e2e", "tpot") if name in columns)
    slow = smaller and len(rows) < SLOW_PER_S * span
    if not span or busy / span >= (SLOW_IDLE if slow else IDLE):
        return
    raise DataError(
        f"in seconds, {column.name} says that {len(rows):,} requests of {busy / len(rows):.3g} s came in "
        f"{span:,.0f} s: the engine was idle {1 - busy / span:.1%} of the time",
        where=where, hint=f"say the unit in its name: {column.name}_ms, _us or _ns, or _s if that is so",
    )  # fmt: skip
