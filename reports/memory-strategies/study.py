"""Every way to manage memory, alone, on two workloads, in one table: writes result.json and report.md.

    python reports/memory-strategies/study.py path/to/conversation_trace.jsonl [--only GROUP] [--jobs N]

A row is the scenario of its workload with a few fields set; what the report shows as its settings is what
`kvplan simulate scenario-....yaml --set ...` takes. CPU seconds depend on the machine, nothing else does.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from findings import BASE, findings, ratio, seconds, size  # noqa: E402

from kvplan.scenario.load import load_scenario  # noqa: E402

WORKLOADS = {"mooncake": "scenario-mooncake.yaml", "agentic": "scenario-agentic.yaml"}

RATES = {
    "FEWER": {"mooncake": "workload.rate_scale=0.2", "agentic": "workload.rate=0.6"},
    "TWICE": {"mooncake": "workload.rate_scale=0.7", "agentic": "workload.rate=2.4"},
}
"""Four answers take more of a GPU, so their rows get about half the requests a second; rows with several GPUs
get twice as many."""

LINEAR = "latency={model: linear, a: 0.005, b: 0.00002, c: 0.00000001}"
"""One that knows nothing of the model, so that both rows differ in memory alone."""

ROWS: dict[str, dict[str, tuple[str, ...]]] = {
    "One GPU as vLLM runs it": {BASE: ()},
    "Eviction": {
        name: (f"cache.eviction={name}",)
        for name in ("lfu", "fifo", "size-aware", "slru", "s3-fifo", "w-tinylfu", "priority", "tail-first",
                     "belady")
    },
    "Allocation": {
        "blocks of 64": ("cache.block_size=64",),
        "slots of the longest context": ("cache.allocation=slots",),
        "slots of a power of two": ("cache.allocation={kind: slots, reserve: pow2}",),
        "slots of the true length": ("cache.allocation={kind: slots, reserve: oracle}",),
        "contiguous, doubling": ("cache.allocation=contiguous",),
        "contiguous, buddy": ("cache.allocation={kind: contiguous, fit: buddy}",),
    },
    "Prefix reuse": {
        "no prefix cache": ("cache.prefix=none",),
        "SGLang: radix tree": ("engine.kind=sglang",),
        "units of 256 tokens": ("cache.reuse_granularity=256",),
        "units of 2,048 tokens": ("cache.reuse_granularity=2048",),
        "pinned: 1k tokens used twice, 5 min": ("cache.pinned={memory: 0.2, prefixes: [{tokens: 1k}]}",),
        "pinned: 8k tokens used twice, 5 min": ("cache.pinned={memory: 0.4, prefixes: [{tokens: 8k}]}",),
    },
    "Dropping tokens": {
        "StreamingLLM, 4 + 2,044": ("cache.retention=streaming:4+2044",),
        "H2O, 20 %": ("cache.retention=h2o:0.2",),
        "SnapKV, 30 % of the prompt": ("cache.retention=snapkv:0.3",),
    },
    "Host memory and disk below the GPU": {
        "host 64 GiB, write-through": ("tiers={host: {memory: 64GiB}}",),
        "host 64 GiB, vLLM's connector": ("tiers={host: {memory: 64GiB, connector: offloading}}",),
        "SGLang: host 64 GiB, written through": ("engine.kind=sglang", "tiers={host: {memory: 64GiB}}"),
        "SGLang: host 64 GiB, written back": (
            "engine.kind=sglang", "tiers={host: {memory: 64GiB, write: back}}",
        ),
        "host 64 GiB, write-back": ("tiers={host: {memory: 64GiB, write: back}}",),
        "host 64 GiB, stored in fp8": ("tiers={host: {memory: 64GiB, dtype: fp8}}",),
        "host 64 GiB, stored in int4": ("tiers={host: {memory: 64GiB, dtype: int4}}",),
        "host 512 GiB": ("tiers={host: {memory: 512GiB}}",),
        "host 64 GiB, disk 2 TiB": ("tiers={host: {memory: 64GiB}, disk: {memory: 2TiB}}",),
        "host 64 GiB, disk 2 TiB, prefetch": (
            "tiers={host: {memory: 64GiB}, disk: {memory: 2TiB}, prefetch: arrival}",
        ),
    },
    "Under pressure, with 64 GiB of host memory": {
        "swap": ("tiers={host: {memory: 64GiB}}", "engine.preemption=swap"),
        "swap or recompute, by predicted cost": ("tiers={host: {memory: 64GiB}}", "engine.preemption=auto"),
        "swap, no prefix cache": (
            "tiers={host: {memory: 64GiB}}", "engine.preemption=swap", "cache.prefix=none",
        ),
    },
    "Four answers a request, about half the rate": {
        "one answer": ("FEWER",),
        "four, copy-on-write": ("sampling.n=4", "FEWER"),
        "four, as requests": ("sampling={n: 4, fork: requests}", "FEWER"),
        "four beams": ("sampling={n: 4, mode: beam}", "FEWER"),
    },
    "Number formats": {
        "fp8 cache": ("cache.dtype=fp8",),
        "int4 cache": ("cache.dtype=int4",),
    },
    "Two GPUs, twice the rate": {
        f"2 replicas, {router}": ("parallel.replicas=2", f"routing.policy={router}", "TWICE")
        for router in ("round-robin", "least-loaded", "session-affinity", "consistent-hashing",
                       "prefix-aware")
    }
    | {
        "tensor parallel": ("parallel.tp=2", "TWICE"),
        "context parallel": ("parallel.cp=2", "TWICE"),
    },
    "Two GPUs, twice the rate, linear clock": {
        "2 replicas, least-loaded, linear": (
            "parallel.replicas=2", "routing.policy=least-loaded", LINEAR, "TWICE",
        ),
        "data-parallel attention": ("parallel={tp: 2, dp_attention: true}", LINEAR, "TWICE"),
    },
    "Three GPUs, twice the rate": {
        "3 replicas, least-loaded": ("parallel.replicas=3", "routing.policy=least-loaded", "TWICE"),
    }
    | {
        f"2 prefill, 1 decode, {name}": (f"disaggregation={{prefill: {{instances: 2}}, {how}}}", "TWICE")
        for name, how in {
            "whole": "streaming: whole", "layerwise": "streaming: layerwise",
            "whole, 5 GB/s": "streaming: whole, bandwidth: 5GB/s",
            "layerwise, 5 GB/s": "streaming: layerwise, bandwidth: 5GB/s",
            "whole in fp8, 5 GB/s": "streaming: whole, dtype: fp8, bandwidth: 5GB/s",
        }.items()
    },
}  # fmt: skip
"""Group -> row -> settings; words in capitals stand for settings above."""

SHOWN = (
    "internal_fragmentation", "external_fragmentation", "reserved_share", "copied_bytes", "pinned",
    "hit_share", "given_up", "unfinished_blocks", "dropped_share", "largest_request", "moved_bytes",
    "host_hit_tokens", "disk_hit_tokens", "to_host_bytes", "from_host_bytes", "from_disk_bytes", "load_s",
    "swap_out_count", "swap_out_bytes", "swap_in_s", "recompute_count", "recompute_s", "host_full",
    "shared_blocks", "postponed_samples", "back_pressured", "transfer_mean",
)  # fmt: skip
"""Figures of strategies that the second table shows, where a row has them."""


def settings(workload: str, row: tuple[str, ...]) -> list[str]:
    """What ``--set`` gets."""
    return [RATES[text][workload] if text in RATES else text for text in row]


def simulate(job: tuple[str, str, str, list[str]]) -> dict[str, Any]:
    """One row, in a process of its own; an error is a result."""
    from kvplan.errors import KvplanError
    from kvplan.scenario.figures import block_bytes_of, figures
    from kvplan.scenario.run import Run

    file, trace, name, assignments = job
    flags = {"workload.trace": trace} if "mooncake" in file else {}
    try:
        run = Run(load_scenario(str(HERE / file), flags, assignments))
        before = time.process_time()
        run.execute()
        spent = time.process_time() - before
    except KvplanError as exc:
        return {"settings": assignments, "figures": None, "strategies": {}, "error": str(exc), "cpu_s": 0.0}
    document = run.result([])
    print(f"{file} {name}: {spent:.1f} s", file=sys.stderr)
    return {
        "settings": assignments,
        "figures": figures(document, block_bytes_of(run.scenario, run.deployment)),
        "strategies": document["strategies"],
        "error": None,
        "cpu_s": round(spent, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Every way to manage memory, alone, on two workloads.")
    parser.add_argument("trace", help="the Mooncake conversation trace (JSON lines)")
    parser.add_argument("--only", action="append", help="simulate this group; the others stay as they are")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    trace = str(Path(given.trace).resolve())
    place = HERE / "result.json"
    result = json.loads(place.read_text()) if given.only and place.exists() else {"runs": {}}
    jobs = [
        (workload, group, name, (file, trace, name, settings(workload, row)))
        for workload, file in WORKLOADS.items()
        for group, rows in ROWS.items()
        if not given.only or group in given.only
        for name, row in rows.items()
    ]
    with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
        found = pool.map(simulate, [job for *_, job in jobs])
        fresh: dict[tuple[str, str], dict[str, Any]] = {}
        for (workload, group, name, _), row in zip(jobs, found, strict=True):
            fresh.setdefault((workload, group), {})[name] = row
    for (workload, group), rows in fresh.items():
        result["runs"].setdefault(workload, {})[group] = rows
    result["runs"] = {
        workload: {group: groups[group] for group in ROWS if group in groups}
        for workload, groups in result["runs"].items()
    }
    place.write_text(json.dumps(result, indent=1) + "\n")
    report = HERE / "report.md"
    report.write_text(rendered(report.read_text(), result))
    for groups in result["runs"].values():
        for rows in groups.values():
            for name, row in rows.items():
                if row["error"]:
                    print(f"failed: {name}: {row['error']}", file=sys.stderr)


def rendered(text: str, result: dict[str, Any]) -> str:
    """The report with every table and every finding made from the result."""
    runs = result["runs"]
    for workload, groups in runs.items():
        text = replaced(text, f"{workload}: findings", findings(workload, groups))
        text = replaced(text, workload, list(table(groups)))
        text = replaced(text, f"{workload}: figures", list(details(groups)))
    return text


def table(groups: dict[str, Any]) -> Iterator[str]:
    """One row a strategy."""
    yield (
        "| strategy | hit ratio | TTFT p50 | TTFT p99 | TPOT p50 | TPOT p99 | preemptions | bytes moved "
        "| peak memory | tokens/s | CPU |"
    )
    yield "| --- |" + " ---: |" * 10
    for group, rows in groups.items():
        yield f"| **{group}** |" + " |" * 10
        for name, row in rows.items():
            found = row["figures"]
            if found is None:
                yield f"| {name} | {row['error'].splitlines()[0].replace('|', '/')} |" + " |" * 9
                continue
            note = "".join(f" ({found[key]:,} {key})" for key in ("rejected", "unfinished") if found[key])
            yield (
                f"| {name}{note} | {ratio(found['hit_ratio'])} | {seconds(found['ttft_p50_s'])} "
                f"| {seconds(found['ttft_p99_s'])} | {seconds(found['tpot_p50_s'])} "
                f"| {seconds(found['tpot_p99_s'])} | {found['preemptions']:,} | {size(found['moved_bytes'])} "
                f"| {size(found['peak_used_bytes'])} | {found['output_tokens_per_s']:,.0f} "
                f"| {row['cpu_s']:.1f} s |"
            )


def details(groups: dict[str, Any]) -> Iterator[str]:
    """What the strategies say of themselves, as far as ``SHOWN`` lists it."""
    yield "| strategy | figure | value | meaning |"
    yield "| --- | --- | ---: | --- |"
    from kvplan.reporting.schema.outcome import Metric
    from kvplan.reporting.strategies import figure, title

    for rows in groups.values():
        for name, row in rows.items():
            for section, metrics in row["strategies"].items():
                for metric in metrics:
                    if metric["name"] in SHOWN and metric["value"]:
                        value = figure(Metric(**metric))
                        what = f"{section}: {title(metric['name'])}"
                        yield f"| {name} | {what} | {value} | {metric['meaning']} |"


def replaced(text: str, name: str, lines: list[str]) -> str:
    """The report with the lines between the two marks of this name rewritten."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
    start, stop = text.index(begin) + len(begin), text.index(end)
    return text[:start] + "\n".join(lines) + "\n" + text[stop:]


if __name__ == "__main__":
    main()
