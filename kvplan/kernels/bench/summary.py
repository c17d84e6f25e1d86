"""The short table that ends a benchmark run."""

from __future__ import annotations

from statistics import median
from typing import Any

from kvplan.kernels.bench.points import GRID_FORMATS, LARGE_BYTES, SMALL_BYTES


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
        lines.append(_shares(name, [p for p in body["points"] if _grouped(p, name)], copy, read))
    for name in ("mla_bf16", "mla_fp8"):
        chosen = [p for p in body["points"] if p["op"] == "mla" and p["format"] == name and p["hq"] == 16]
        large = [p for p in chosen if p["kv_bytes"] >= LARGE_BYTES]
        lines.append(_shares(f"{name}, 16 heads", large, copy, read))
    tiny = [p for p in body["points"] if p["op"] == "decode" and p["kv_bytes"] < SMALL_BYTES]
    for title, warm in (("KV < 4 MB from memory", False), ("KV in the L2 (stage warm)", True)):
        times = [p["median_s"] for p in tiny if (p["stage"] == "warm") == warm]
        if times:
            lines.append(f"{f'decode, {title}, median':40s} {median(times) * 1e6:9.1f} us")
    lines += _against_peers(body)
    lines += [f"WRONG {row['key']}: {row.get('message') or row.get('error')}" for row in wrong[:20]]
    lines += [f"FAILED {row['key']}: {row['message'][:100]}" for row in body["failures"][:10]]
    return "\n".join(lines)


def _grouped(p: dict[str, Any], name: str) -> bool:
    """Whether a point is one that the targets are about."""
    plain = p["op"] == "decode" and p["d"] == 128 and not p["window"] and not p["ragged"]
    return bool(
        plain and p["format"] == name and 2 <= p["hq"] // p["hkv"] <= 8 and p["kv_bytes"] >= LARGE_BYTES
    )


def _shares(title: str, rows: list[dict[str, Any]], copy: float | None, read: float | None) -> str:
    cells = [_percent(fractions(rows, ceiling)) for ceiling in (copy, read)]
    return f"{title:34s} {cells[0]:>9s} {cells[1]:>9s} {len(rows):7d}"


SAME = ("op", "hq", "hkv", "d", "batch", "context", "new_tokens")


def _against_peers(body: dict[str, Any]) -> list[str]:
    """Our times over each peer's at the same shapes, by our format: the median, and over how many shapes."""
    plain = [p for p in body["points"] if p["stage"] in ("grid", "prefill")]
    ours = {(p["format"], *(p[n] for n in SAME)): p["median_s"] for p in plain}
    ratios: dict[tuple[str, str, str], list[float]] = {}
    for row in body["peers"]:
        for name in ("bf16", "fp8_e4m3", "int4") if "median_s" in row else ():
            mine = ours.get((name, *(row[n] for n in SAME)))
            if mine is not None:
                ratios.setdefault((row["peer"], row["op"], name), []).append(mine / row["median_s"])
    return [
        f"{f'{op}, {name} over {peer}, time':46s} {median(values):6.2f} {len(values):8d}"
        for (peer, op, name), values in ratios.items()
    ]


def _tb(rate: float | None) -> str:
    return "not measured" if rate is None else f"{rate / 1e12:.3f} TB/s"


def _percent(values: list[float]) -> str:
    return f"{median(values):.0%}" if values else "-"
