"""The short table that ends a benchmark run."""

from __future__ import annotations

from statistics import median
from typing import Any

from kvplan.kernels.bench.points import GRID_FORMATS

LARGE = 1e9


def rate(rows: list[dict[str, Any]], key: str) -> float | None:
    """Bytes per second of a ceiling, or ``None`` when it was not measured."""
    return next((row["bytes"] / row["median_s"] for row in rows if row["key"] == key), None)


def fractions(points: list[dict[str, Any]], ceiling: float | None) -> list[float]:
    """Achieved bandwidth of each point over a ceiling."""
    return [p["kv_bytes"] / p["median_s"] / ceiling for p in points] if ceiling else []


def table(body: dict[str, Any]) -> str:
    """Plain text, at most 80 columns."""
    checks = body["correctness"]
    wrong = [row for row in checks if not row["ok"]]
    copy, read = rate(body["ceilings"], "copy"), rate(body["ceilings"], "read")
    warning = ["DRY RUN: every duration below is made up", ""] if body["environment"].get("dry_run") else []
    lines = [
        *warning,
        f"device        {body['environment']['device']}",
        f"correctness   {len(checks) - len(wrong)} of {len(checks)} right",
        f"copy, read    {_tb(copy)}, {_tb(read)}",
        f"points        {len(body['points'])} timed, {len(body['failures'])} failed",
        f"peers         {len(body['peers'])} rows",
        f"complete      {'yes' if body['complete'] else 'no'}",
        "",
        f"{'decode, GQA, d=128, KV >= 1 GB':34s} {'of copy':>9s} {'of read':>9s} {'points':>7s}",
    ]
    for name in GRID_FORMATS:
        chosen = [
            p
            for p in body["points"]
            if p["op"] == "decode" and p["format"] == name and p["d"] == 128 and 2 <= p["hq"] // p["hkv"] <= 8
            and p["kv_bytes"] >= LARGE and not p["window"] and not p["ragged"]
        ]  # fmt: skip
        cells = [_percent(fractions(chosen, ceiling)) for ceiling in (copy, read)]
        lines.append(f"{name:34s} {cells[0]:>9s} {cells[1]:>9s} {len(chosen):7d}")
    small = [p for p in body["points"] if p["op"] == "decode" and p["kv_bytes"] < 4 << 20]
    if small:
        lines.append(
            f"{'decode, KV < 4 MB, median':34s} {median(p['median_s'] for p in small) * 1e6:7.1f} us"
        )
    lines += [f"WRONG {row['key']}: {row.get('message') or row.get('error')}" for row in wrong[:20]]
    lines += [f"FAILED {row['key']}: {row['message'][:100]}" for row in body["failures"][:10]]
    return "\n".join(lines)


def _tb(rate: float | None) -> str:
    return "not measured" if rate is None else f"{rate / 1e12:.3f} TB/s"


def _percent(values: list[float]) -> str:
    return f"{median(values):.0%}" if values else "-"
