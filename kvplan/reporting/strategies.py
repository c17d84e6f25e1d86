"""Figures of the ways to manage memory a run was asked for: one table a section, in units people read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from kvplan.reporting.result import Result
from kvplan.reporting.schema.outcome import Metric
from kvplan.reporting.tables import MAX_ROWS, Table
from kvplan.reporting.wording import count, decimal, percent, plain, seconds
from kvplan.units import format_bytes

_ACRONYMS = frozenset(("ttft", "tpot", "kv", "gpu", "cpu", "pcie", "dp", "io"))

MAX_SECTIONS = 20
"""Most sections shown; the result itself has them all."""

COLUMNS = ("Figure", "Value", "Meaning")

_EXTREMES = ("most_", "least_")

_POOLS = ("prefill", "decode")

Section = tuple[str, Sequence[Metric]]


def strategies_tables(result: Result) -> list[Table]:
    """A table a section: name, value and meaning of every figure. Empty where nothing was asked for.

    What every replica or rank reports is one table: see ``together``.
    """
    found: list[Table] = []
    for name, group in _grouped(result):
        if len(group) == 1:
            found.append(_table(title(group[0][0]), [(m, figure(m)) for m in group[0][1]]))
        else:
            found.append(
                _table(f"{title(name)}, {len(group)} {member(result, name)}s together", together(group))
            )
    return found[:MAX_SECTIONS]


def replica_tables(result: Result) -> list[Table]:
    """The tables of single replicas or ranks, where ``strategies_tables`` has them together."""
    several = (section for _, group in _grouped(result) if len(group) > 1 for section in group)
    tables = [_table(title(name), [(m, figure(m)) for m in metrics]) for name, metrics in several]
    return tables[:MAX_SECTIONS]


def member(result: Result, name: str = "") -> str:
    """What several sections of one name are of: ranks where it has some, else instances or replicas.

    Of a pool's sections (``sliding windows decode``) only the ranks of that pool count.
    """
    pool = next((word for word in _POOLS if name.endswith(f" {word}")), "")
    ranks = any(section.startswith(f"dp_attention {pool}".rstrip()) for section in result.strategies)
    if ranks and not name.startswith("dp_attention"):
        return "rank"
    return "instance" if "disaggregation" in result.strategies else "replica"


def _grouped(result: Result) -> list[tuple[str, list[Section]]]:
    """Sections by what they are called without numbers; the same figures in each, or apart.

    ``sliding windows 1 prefill 0`` is of rank 1 of the first prefill instance.
    """
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], list[Section]] = {}
    for name, metrics in result.strategies.items():
        base = re.sub(r" \d+(?= |$)", "", name)
        shape = tuple((metric.name, metric.unit) for metric in metrics)
        groups.setdefault((base, shape), []).append((name, metrics))
    return [(base, sections) for (base, _), sections in groups.items()]


def together(sections: Sequence[Section]) -> Iterator[tuple[Metric, str]]:
    """Every figure of several replicas, as one text.

    Equal values are said once, as each replica's; counts, bytes and times are added up; of peaks and shares,
    which do not add up, the lowest and the highest are shown.
    """
    for metrics in zip(*(metrics for _, metrics in sections), strict=True):
        first = metrics[0]
        values = [metric.value for metric in metrics]
        numbers = [value for value in values if isinstance(value, (int, float))]
        if all(value == first.value for value in values):
            yield first, f"{figure(first)} each" if any(numbers) else figure(first)
        elif len(numbers) < len(values):
            yield first, ", ".join(dict.fromkeys(map(figure, metrics)))
        elif (
            "peak" in first.name
            or first.name.startswith(_EXTREMES)
            or (first.unit in _SHARES and any(type(n) is float for n in numbers))
        ):
            least, most = (first.model_copy(update={"value": edge(numbers)}) for edge in (min, max))
            yield first, _from_to(figure(least), figure(most))
        else:
            yield first, figure(first.model_copy(update={"value": sum(numbers)}))


def _from_to(low: str, high: str) -> str:
    """``'3 blocks', '4 blocks'`` -> ``'3 to 4 blocks'``; the unit is said twice only where it differs.

    What differs only in digits that are not shown is the same to a reader.
    """
    if low == high:
        return f"{low} each"
    number, _, unit = low.partition(" ")
    return f"{number if unit == high.partition(' ')[2] else low} to {high}"


def _table(caption: str, figures: Iterable[tuple[Metric, str]]) -> Table:
    found = list(figures)
    rows = tuple((figure_name(metric), text, plain(metric.meaning)) for metric, text in found[:MAX_ROWS])
    return Table(caption, COLUMNS, rows, numeric=(1,), left_off=max(0, len(found) - MAX_ROWS))


def title(name: str) -> str:
    """``'kv_bytes_moved'`` -> ``'KV bytes moved'``."""
    words = plain(name, 80).replace("_", " ").split()
    text = " ".join(word.upper() if word in _ACRONYMS else word for word in words)
    return text[:1].upper() + text[1:]


def figure_name(metric: Metric) -> str:
    """What a figure is called beside its value: ``load_s`` -> ``'Load time'``."""
    return title(re.sub(r"_s$", "_time", metric.name) if metric.unit == "s" else metric.name)


_SHARES = ("1", "ratio", "")


def figure(metric: Metric) -> str:
    """A value with its unit: ``1.50 GiB``, ``12.3 ms``, ``4,096 tokens``, ``38.2%``; an en dash for none."""
    value, unit = metric.value, plain(metric.unit, 40)
    if value is None:
        return "–"
    if isinstance(value, str):
        return plain(value, 80)
    if unit in ("bytes", "B"):
        return format_bytes(value)
    if unit in ("bytes/s", "B/s"):
        return f"{format_bytes(value)}/s"
    if unit == "s":
        return seconds(float(value))
    number = count(value) if isinstance(value, int) else decimal(value)
    if unit in _SHARES:
        return percent(value) if isinstance(value, float) and 0.0 <= value <= 1.0 else number
    return f"{number} {unit}"
