"""A deterministic builder of realistic results, so that reports are tested without a simulator.

The numbers come from closed formulas and one seeded generator; no clock, no files.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from typing import Any

import pytest

GIB = 1 << 30
Document = dict[str, Any]

VARIANTS = (
    "full", "no_model", "no_gpu", "no_slo", "slo_missed", "empty", "incomplete", "hostile", "rejecting",
    "one_request", "no_reuse", "crowded", "strategies", "many_strategies",
)  # fmt: skip


def _percentiles(values: list[float]) -> list[float]:
    ordered = sorted(values)
    last = len(ordered) - 1
    out = []
    for percent in range(101):
        place = percent / 100 * last
        low = math.floor(place)
        high = min(low + 1, last)
        out.append(round(ordered[low] + (ordered[high] - ordered[low]) * (place - low), 9))
    return out


def _statistics(values: list[float]) -> dict[str, float | int]:
    points = _percentiles(values)
    return {
        "count": len(values), "mean": math.fsum(values) / len(values),
        "p50": points[50], "p90": points[90], "p99": points[99], "max": points[100],
    }  # fmt: skip


def _intervals(values: dict[str, list[float]]) -> dict[str, Any]:
    statistics = {name: _statistics(data) for name, data in values.items()}
    return {
        name: {key: [0.7 * found[key], 1.4 * found[key]] for key in ("mean", "p50", "p90", "p99")}
        for name, found in statistics.items()
    }


def build_full(samples: int = 600, requests: int = 1000) -> Document:
    """Llama 3.1 8B on one H100 serving a thousand conversations: every part present, both SLOs met."""
    rng = random.Random(7)
    ttft = [round(rng.lognormvariate(-1.9, 0.75), 6) for _ in range(requests)]
    tpot = [round(0.011 + rng.gammavariate(2.0, 0.003), 6) for _ in range(requests - 4)]
    e2e = [round(t + rng.choice(tpot) * rng.randint(80, 700), 6) for t in ttft]
    queue = [round(max(0.0, t * 0.6 - 0.05), 6) for t in ttft]
    makespan = 618.25
    usable, block_size = 27_419, 16
    t_s, used, cached, running, waiting, queried, hit, preempted = [], [], [], [], [], [], [], []
    asked = found = lost = 0
    for index in range(samples):
        phase = index / max(samples - 1, 1)
        load = 0.52 + 0.36 * math.sin(phase * 7.1) * math.exp(-phase) + rng.uniform(-0.04, 0.04)
        busy = min(int(usable * load * min(1.0, phase * 9)), usable - 40)
        t_s.append(round(phase * makespan, 4))
        used.append(busy)
        cached.append(min(usable - busy - 40, int(usable * min(1.0, phase * 4) * 0.42)))
        running.append(int(busy / 620))
        waiting.append(max(0, int((load - 0.8) * 120)))
        tokens = rng.randint(8_000, 16_000)
        asked += tokens
        found += int(tokens * (0.08 + 0.4 * min(1.0, phase * 3)))
        lost += 1 if load > 0.86 and rng.random() < 0.5 else 0
        queried.append(asked)
        hit.append(found)
        preempted.append(lost)
    bill = [
        ("weights", 16_060_522_496, "8,030,261,248 parameters x 2 B", "bundled spec llama-3.1-8b"),
        ("activations", 2_147_483_648, "profile at 8,192 tokens a step", "estimate"),
        ("graphs", 1_073_741_824, "CUDA graphs of 67 batch sizes", "vLLM default"),
        ("runtime", 1_395_864_371, "CUDA context, NCCL, allocator", "measured on H100"),
        ("kv_pool", 57_504_956_416, "27,420 blocks x 16 tokens x 131,072 B", "what is left"),
        ("unused", 6_848_200_802, "memory outside gpu_memory_utilization 0.92", "scenario"),
    ]
    contexts = [1024 << power for power in range(8)]
    return {
        "schema": "kvplan.result/1",
        "complete": True,
        "scenario": {
            "model": "llama-3.1-8b", "gpu": "h100-sxm",
            "parallel": {"tp": 1, "pp": 1, "cp": 1, "replicas": 1},
            "cache": {"dtype": "bf16", "block_size": None, "blocks": None, "prefix": "hash", "eviction": "lru"},
            "engine": {
                "kind": "vllm", "version": "0.33", "max_num_seqs": 256, "max_num_batched_tokens": 8192,
                "chunked_prefill": True, "policy": "fcfs", "preemption": "recompute",
            },
            "latency": {"model": "roofline"},
            "workload": {"trace": "conversation_trace.jsonl", "format": "mooncake", "limit": 1000, "rate_scale": 1.0},
            "slo": {"ttft_p99_s": 2.0, "tpot_p99_s": 0.05},
            "seed": 0,
        },
        "model": {
            "name": "llama-3.1-8b", "summary": "32 layers · GQA 8 KV heads x 128 · KV bf16",
            "kv_bytes_per_token": 131_072, "state_bytes_per_sequence": 0, "weights_bytes": 16_060_522_496,
            "kv_dtype": "bf16",
        },
        "gpu": {"name": "h100-sxm", "memory_bytes": 85_030_769_557, "bandwidth_bytes_per_s": 3.35e12, "count": 1},
        "memory": {
            "bill": [{"name": n, "bytes": b, "formula": f, "source": s} for n, b, f, s in bill],
            "total_bytes": sum(item[1] for item in bill),
            "num_blocks": usable + 1, "block_size": block_size, "kv_tokens": usable * block_size,
            "max_concurrency": 13.388, "max_concurrency_context": 32_768,
        },
        "pool": {"num_blocks": usable + 1, "usable_blocks": usable, "block_size": block_size},
        "capacity": [
            {
                "dtype": dtype,
                "points": [
                    {"context_tokens": c, "max_concurrency": round(usable * block_size * gain / c, 2)} for c in contexts
                ],
            }
            for dtype, gain in (("bf16", 1.0), ("fp8_e4m3", 2.0), ("int4", 3.5))
        ],
        "totals": {
            "requests": requests, "finished": requests, "rejected": 0, "timed_out": 0, "unfinished": 0,
            "steps": 41_872,
            "prompt_tokens": 12_035_118, "output_tokens": 343_512, "queried_tokens": asked, "hit_tokens": found,
            "preemptions": lost, "evicted_blocks": 402_113, "allocated_blocks": 466_902,
            "peak_used_blocks": max(used), "peak_running": max(running), "peak_waiting": max(waiting),
            "makespan_s": makespan,
        },
        "latency": {
            "ttft_s": _statistics(ttft), "tpot_s": _statistics(tpot), "e2e_s": _statistics(e2e),
            "queue_s": _statistics(queue),
        },
        "throughput": {
            "requests_per_s": requests / makespan, "prompt_tokens_per_s": 12_035_118 / makespan,
            "output_tokens_per_s": 343_512 / makespan,
        },
        "cost": {
            "currency": "USD", "gpus": 1, "per_hour": 2.5, "total": 2.5 * makespan / 3600,
            "per_million_output_tokens": 2.5 * makespan / 3600 / 0.343_512,
            "per_million_tokens": 2.5 * makespan / 3600 / (12.035_118 + 0.343_512),
        },
        "distributions": {
            "ttft_s": _percentiles(ttft), "tpot_s": _percentiles(tpot), "e2e_s": _percentiles(e2e),
            "queue_s": _percentiles(queue),
        },
        "series": {
            "t_s": t_s, "used_blocks": used, "cached_blocks": cached, "running": running, "waiting": waiting,
            "queried_tokens": queried, "hit_tokens": hit, "preemptions": preempted,
        },
        "slo": [
            {"name": "ttft_p99_s", "limit_s": 2.0, "value_s": _percentiles(ttft)[99], "passed": True},
            {"name": "tpot_p99_s", "limit_s": 0.05, "value_s": _percentiles(tpot)[99], "passed": True},
        ],
        "accuracy": {
            "model": "roofline", "name": "h100-sxm datasheet",
            "statement": "Step times come from datasheet peaks, not from measurements on this GPU.",
            "bands": {"ttft": [-0.35, 0.3], "tpot": [-0.25, 0.2], "e2e": [-0.3, 0.25]},
            "source": "compared with 412 measured steps of h100-sxm",
            "intervals": _intervals({"ttft_s": ttft, "tpot_s": tpot, "e2e_s": e2e}),
            "ensemble": 8,
            "intervals_source": "8 simulations with perturbed clocks: 90 % by their spread",
        },
        "trace": {
            "name": "conversation_trace.jsonl", "format": "mooncake", "rows_read": 1003, "requests": requests,
            "dropped": {"no output tokens": 2, "half-written line": 1},
            "notes": ["arrival times are relative to the first row"], "reuse_known": True,
        },
        "assumptions": [
            {"name": "weights_dtype", "value": "bf16", "source": "spec of llama-3.1-8b"},
            {"name": "gpu_memory_utilization", "value": 0.92, "source": "vLLM default"},
            {"name": "max_model_len", "value": 131_072, "source": "limit of the model"},
            {"name": "stop_at_output_tokens", "value": True, "source": "the trace gives output lengths"},
        ],
        "warnings": ["the trace covers 10 minutes; a day has busier hours"],
        "provenance": {
            "command": "kvplan simulate --model llama-3.1-8b --gpu h100-sxm --trace conversation_trace.jsonl -o result.json",
            "seed": 0,
            "inputs": [{"path": "conversation_trace.jsonl", "bytes": 1_903_113, "sha256": "3f" * 32}],
            "versions": {"python": "3.11.2", "kvplan": "0.1.0", "numpy": "2.4.1"},
        },
    }  # fmt: skip


HOSTILE = "</script><img src=x onerror=alert(1)>"


def build(variant: str = "full") -> Document:
    """The named variant (see ``VARIANTS``) as a plain document."""
    document = build_full()
    if variant == "full":
        return document
    return _CHANGES[variant](document)


def _no_model(document: Document) -> Document:
    document |= {"model": None, "gpu": None, "memory": None, "capacity": None}
    document["accuracy"] = {
        "model": "linear", "name": "a=0.005 b=2e-05 c=1e-08", "statement": "The step time is given, not predicted.",
        "bands": None, "source": "scenario",
    }  # fmt: skip
    return document


def _no_gpu(document: Document) -> Document:
    return document | {"gpu": None, "memory": None}


def _no_slo(document: Document) -> Document:
    return document | {"slo": []}


def _slo_missed(document: Document) -> Document:
    document["slo"][0] |= {"limit_s": 0.5, "passed": False}
    return document


def _empty(document: Document) -> Document:
    for name in document["totals"]:
        document["totals"][name] = 0.0 if name == "makespan_s" else 0
    document["latency"] = dict.fromkeys(document["latency"])
    document["throughput"] = dict.fromkeys(document["throughput"], 0.0)
    document["cost"] |= {"total": 0.0, "per_million_output_tokens": None, "per_million_tokens": None}
    document["distributions"] = {name: [] for name in document["distributions"]}
    document["accuracy"]["intervals"] = dict.fromkeys(document["accuracy"]["intervals"])
    document["series"] = {name: [] for name in document["series"]}
    for slo in document["slo"]:
        slo |= {"value_s": None, "passed": False}
    document["trace"] |= {"requests": 0}
    document["warnings"] = []
    return document


def _incomplete(document: Document) -> Document:
    document["complete"] = False
    document["totals"] |= {"finished": 312, "unfinished": 688}
    return document


def _rejecting(document: Document) -> Document:
    document["totals"] |= {"finished": 982, "rejected": 18}
    document["warnings"].append("18 requests are longer than the pool and were rejected")
    return document


def _one_request(document: Document) -> Document:
    document["totals"] |= {
        "requests": 1,
        "finished": 1,
        "preemptions": 0,
        "peak_waiting": 0,
        "peak_running": 1,
    }
    single = {"count": 1, "mean": 0.2, "p50": 0.2, "p90": 0.2, "p99": 0.2, "max": 0.2}
    document["latency"] = {
        "ttft_s": single,
        "tpot_s": None,
        "e2e_s": single,
        "queue_s": {**single, **dict.fromkeys(("mean", "p50", "p90", "p99", "max"), 0.0)},
    }
    around = {key: [0.15, 0.3] for key in ("mean", "p50", "p90", "p99")}
    document["accuracy"]["intervals"] = {"ttft_s": around, "tpot_s": None, "e2e_s": around}
    document["distributions"] = {
        "ttft_s": [0.2] * 101,
        "tpot_s": [],
        "e2e_s": [0.2] * 101,
        "queue_s": [0.0] * 101,
    }
    document["series"] = {name: column[:1] for name, column in document["series"].items()}
    document["slo"] = []
    return document


def _no_reuse(document: Document) -> Document:
    document["totals"]["hit_tokens"] = 0
    document["series"]["hit_tokens"] = [0] * len(document["series"]["t_s"])
    document["trace"]["reuse_known"] = False
    return document


def _crowded(document: Document) -> Document:
    """More of everything than a page should show: points, warnings, dtypes, bill lines."""
    large = build_full(samples=7000)
    document["series"] = large["series"]
    document["totals"] |= {
        name: large["totals"][name] for name in ("queried_tokens", "hit_tokens", "preemptions")
    }
    document["warnings"] = [f"warning number {index}" for index in range(1, 501)]
    document["capacity"] = [
        {**copy.deepcopy(document["capacity"][0]), "dtype": f"format{index}"} for index in range(9)
    ]
    return document


def _metric(name: str, value: Any, unit: str, meaning: str) -> Document:
    return {"name": name, "value": value, "unit": unit, "meaning": meaning}


def _strategies(document: Document) -> Document:
    """Two sections with every unit there is, and one figure nobody could take."""
    document["strategies"] = {
        "host_tier": [
            _metric("capacity", 64 * GIB, "bytes", "host memory for blocks"),
            _metric("stored_blocks", 31_877, "blocks", "written to the host when they left the GPU"),
            _metric("read_bytes", 12_884_901_888, "bytes", "copied back to the GPU for a hit"),
            _metric("link_busy", 84.25, "s", "time that the link carried data, both directions added up"),
            _metric("link_rate", 5.5e10, "bytes/s", "bandwidth of the link in one direction"),
            _metric("waiting_p99", None, "s", "no request waited for a copy"),
            _metric("hit_share", 0.2134, "1", "of the tokens looked up that missed on the GPU"),
            _metric("longest_queue", 7, "copies", "copies waiting for the link at once"),
            _metric("write", "through", "", "when a block is copied to the host"),
        ],
        "pinned prefixes": [
            _metric("expired", 3, "1", "prefixes whose time to live ran out"),
            _metric("slowdown", 1.25, "1", "steps with copies over steps without"),
        ],
    }
    return document


def _many_strategies(document: Document) -> Document:
    """More figures, sections and text than anyone would show."""
    long = "what this is about " * 60
    document["strategies"] = {
        f"section {index}": [
            _metric(f"figure_{i}_" + "x" * (i % 70), i * 10.0**i, "s", long) for i in range(12)
        ]
        for index in range(25)
    }
    document["strategies"]["section 1"] *= 20
    document["strategies"]["section 2"] = []
    return document


def _hostile(document: Document) -> Document:
    document["strategies"] = {
        f"=tiers{HOSTILE}": [
            _metric(HOSTILE, HOSTILE, HOSTILE, HOSTILE), _metric("=1+1", "=cmd|'/C calc'!A0", "@x", "[red]a[/red] \x1b[31m"),
            _metric("a|b", 12, "=blocks|`x`", "{{ 7 * 7 }}"),
        ]
    }  # fmt: skip
    document["model"] |= {"name": HOSTILE, "summary": "a\u202eb\x1b[31m"}
    document["gpu"]["name"] = "[red]|pipe|`code`[/red]"
    document["warnings"] = [HOSTILE, "{{ 7 * 7 }} {% raw %}", "line\nbreak | pipe", "\x1b]0;title\x07"]
    document["trace"] |= {"name": HOSTILE, "dropped": {HOSTILE: 1}}
    document["capacity"][0]["dtype"] = "<b>bold</b>"
    document["memory"]["bill"][0] |= {"name": "<svg onload=alert(1)>", "formula": "=cmd|'/C calc'!A0"}
    document["provenance"]["command"] = f"kvplan simulate '{HOSTILE}' --"
    document["assumptions"][0]["value"] = "var(--x);}</style><script>alert(1)</script>"
    document["accuracy"] |= {"statement": "<!-- <script> $&", "intervals_source": "a\u202eb\x1b[31m"}
    document["provenance"]["versions"]["kvplan"] = "9\u202e\x1b[31m"
    document["scenario"]["note"] = HOSTILE
    return document


_CHANGES: dict[str, Callable[[Document], Document]] = {
    "no_model": _no_model, "no_gpu": _no_gpu, "no_slo": _no_slo, "slo_missed": _slo_missed, "empty": _empty,
    "incomplete": _incomplete, "rejecting": _rejecting, "one_request": _one_request, "no_reuse": _no_reuse,
    "crowded": _crowded, "hostile": _hostile, "strategies": _strategies, "many_strategies": _many_strategies,
}  # fmt: skip


@pytest.fixture(scope="session")
def result_document() -> Callable[..., Document]:
    """``result_document(variant)``: a fresh document that the test may change."""
    return build


@pytest.fixture(params=VARIANTS)
def any_document(request: pytest.FixtureRequest) -> Document:
    """Every variant in turn."""
    return build(request.param)
