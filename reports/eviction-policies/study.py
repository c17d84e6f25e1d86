"""Every eviction policy alone on two workloads, and the ladder of each: writes result.json and report.md.

    python reports/eviction-policies/study.py path/to/conversation_trace.jsonl

Runs the commands that the report shows. CPU seconds are those of the whole process, start-up included,
and the smallest of three runs; they are the only figures that depend on the machine.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
POLICIES = (
    "lru", "lfu", "fifo", "size-aware", "slru", "s3-fifo", "w-tinylfu", "priority", "tail-first", "belady",
)  # fmt: skip
RUNS = {
    "mooncake, 28,000 blocks": ("scenario-mooncake.yaml", ()),
    "mooncake, 320,000 blocks": ("scenario-mooncake.yaml", ("--set", "cache.blocks=320001")),
    "agentic, 28,000 blocks": ("scenario-agentic.yaml", ()),
}
LADDERS = {
    "mooncake, blocks of 512": ("TRACE", 512, (875, 1_000, 3_000, 10_000, 16_000, 30_000)),
    "mooncake, blocks of 16": ("TRACE", 16, (28_000, 100_000, 320_000)),
    "agentic, blocks of 16": ("agentic", 16, (7_000, 28_000, 112_000, 448_000)),
}
REPEATS = 3


def command(words: list[str]) -> tuple[str, float]:
    """Standard output and CPU seconds of a kvplan command run here."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "kvplan", *words], cwd=HERE, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def simulate(scenario: str, options: tuple[str, ...], trace: Path) -> dict[str, Any]:
    """Every policy on one scenario."""
    found = {}
    for policy in POLICIES:
        words = ["simulate", scenario, *options, "--set", f"cache.eviction={policy}", "-q", "-f", "json"]
        if "mooncake" in scenario:
            words += ["--trace", str(trace)]
        runs = [command(words) for _ in range(REPEATS)]
        result = json.loads(runs[0][0])
        totals, latency = result["totals"], result["latency"]
        found[policy] = {
            "hit_ratio": totals["hit_tokens"] / totals["queried_tokens"],
            "ttft_mean_s": latency["ttft_s"]["mean"],
            "ttft_p99_s": latency["ttft_s"]["p99"],
            "tpot_mean_s": latency["tpot_s"]["mean"],
            "preemptions": totals["preemptions"],
            "evicted_blocks": totals["evicted_blocks"],
            "bytes_moved": 0,  # recomputation moves nothing, and there is no other tier
            "peak_bytes": totals["peak_used_blocks"]
            * result["pool"]["block_size"]
            * result["model"]["kv_bytes_per_token"],
            "finished": totals["finished"],
            "cpu_s": round(min(seconds for _, seconds in runs), 2),
        }
        print(policy, found[policy], file=sys.stderr)
    return found


def climb(source: str, block_size: int, capacities: tuple[int, ...], trace: Path) -> dict[str, Any]:
    """One ladder, every capacity; the machine's path of the trace is left out."""
    words = ["trace", "ladder", str(trace) if source == "TRACE" else source, "-f", "json"]
    words += ["--block-size", str(block_size)]
    for blocks in capacities:
        words += ["--blocks", str(blocks)]
    document = json.loads(command(words)[0])
    document["trace"]["name"] = Path(document["trace"]["name"]).name
    document.pop("accounting")
    return document


def engine_table(runs: dict[str, Any]) -> list[str]:
    columns = (
        "policy", "hit ratio", "TTFT mean", "TTFT p99", "TPOT mean", "preemptions", "evicted blocks",
        "bytes moved", "peak memory", "CPU",
    )  # fmt: skip
    lines = ["| " + " | ".join(columns) + " |", "| --- |" + " ---: |" * 9]
    for policy, run in runs.items():
        lines.append(
            f"| {policy} | {run['hit_ratio']:.2%} | {run['ttft_mean_s']:.3f} s | {run['ttft_p99_s']:.3f} s "
            f"| {1e3 * run['tpot_mean_s']:.1f} ms | {run['preemptions']:,} | {run['evicted_blocks']:,} "
            f"| {run['bytes_moved']} | {run['peak_bytes'] / 2**30:.1f} GiB | {run['cpu_s']:.2f} s |"
        )
    return lines


def ladder_table(document: dict[str, Any]) -> list[str]:
    rungs = document["rungs"]
    lines = [
        "| hits, % of block references | " + " | ".join(f"{rung['blocks']:,}" for rung in rungs) + " |",
        "| --- |" + " ---: |" * len(rungs),
    ]
    for policy in POLICIES:
        cells = (f"{100 * rung['policies'][policy]['block_hit_ratio']:.2f}" for rung in rungs)
        lines.append(f"| {policy} | " + " | ".join(cells) + " |")
    bound = f"{100 * document['content_bound']['block_hit_ratio']:.2f}"
    lines.append("| content bound | " + " | ".join(bound for _ in rungs) + " |")
    lines.append("| best online | " + " | ".join(rung["best_online"] for rung in rungs) + " |")
    lines.append("| what holds LRU back | " + " | ".join(rung["verdict"] for rung in rungs) + " |")
    return lines


def main() -> None:
    trace = Path(sys.argv[1]).resolve()
    result = {
        "runs": {name: simulate(file, options, trace) for name, (file, options) in RUNS.items()},
        "ladders": {name: climb(*what, trace) for name, what in LADDERS.items()},
    }
    (HERE / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    (HERE / "report.md").write_text(rendered((HERE / "report.md").read_text(), result))


def rendered(text: str, result: dict[str, Any]) -> str:
    """The report with every table made from the result."""
    for name, runs in result["runs"].items():
        text = replaced(text, name, engine_table(runs))
    for name, document in result["ladders"].items():
        text = replaced(text, f"ladder: {name}", ladder_table(document))
    return text


def replaced(text: str, name: str, table: list[str]) -> str:
    """The report with the table between the two marks of this name rewritten."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
    start, stop = text.index(begin) + len(begin), text.index(end)
    return text[:start] + "\n".join(table) + "\n" + text[stop:]


if __name__ == "__main__":
    main()
