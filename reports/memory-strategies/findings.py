"""The sentences of the report, with every number from the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Runs = dict[str, dict[str, dict[str, Any]]]
"""Workload -> group -> row."""

BASE = "vLLM: blocks of 16, hash, lru, recompute"
ONE_ANSWER = "one answer"


def ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def seconds(value: float | None) -> str:
    from kvplan.units import format_seconds

    return "–" if value is None else format_seconds(value)


def size(value: int | None) -> str:
    from kvplan.units import format_bytes

    return "–" if value is None else format_bytes(value)


def whole(value: float) -> str:
    return f"{value:,.0f}"


FORMS: dict[str, Callable[[Any], str]] = {"_s": seconds, "ratio": ratio, "bytes": size}


class Rows:
    """The rows of one workload by name."""

    def __init__(self, workload: str, groups: dict[str, Any]) -> None:
        self.workload = workload
        self.groups = groups
        self.rows = {name: row for rows in groups.values() for name, row in rows.items()}

    def __call__(self, name: str, key: str) -> str:
        """A figure of a row, as it is read."""
        form = next((form for end, form in FORMS.items() if key.endswith(end) and "per_s" not in key), whole)
        return form(self.value(name, key))

    def value(self, name: str, key: str) -> Any:
        return self.rows[name]["figures"][key]

    def metric(self, name: str, figure: str) -> Any:
        sections = self.rows[name]["strategies"].values()
        return next(metric["value"] for section in sections for metric in section if metric["name"] == figure)

    def each(self, key: str, names: Mapping[str, str]) -> str:
        """``4.57% alone, 5.27% with a host tier``: label -> row."""
        found = [f"{self(name, key)} {label}" for label, name in names.items()]
        return ", ".join(found)


def eviction(rows: Rows) -> Iterator[str]:
    found = {n: rows.value(n, "hit_ratio") for n in (BASE, *rows.groups["Eviction"]) if n != "belady"}
    yield (
        f"**Which block goes first.** {ratio(min(found.values()))} to {ratio(max(found.values()))} of "
        "the tokens "
        f"hit under the nine policies that can be built, {rows(BASE, 'hit_ratio')} under lru; the "
        "optimum gets "
        f"{rows('belady', 'hit_ratio')} and a TTFT p99 of {rows('belady', 'ttft_p99_s')} "
        f"(lru {rows(BASE, 'ttft_p99_s')})."
    )


def tiers(rows: Rows) -> Iterator[str]:
    names = {
        "without": BASE,
        "with 64 GiB of host memory written through": "host 64 GiB, write-through",
        "as vLLM's connector does": "host 64 GiB, vLLM's connector",
        "written back": "host 64 GiB, write-back",
        "stored in fp8": "host 64 GiB, stored in fp8",
        "in int4": "host 64 GiB, stored in int4",
        "with 512 GiB": "host 512 GiB",
        "with 64 GiB and a disk of 2 TiB": "host 64 GiB, disk 2 TiB",
    }
    ends = {label: names[label] for label in ("without", "with 64 GiB and a disk of 2 TiB")}
    trees = {
        "alone": "SGLang: radix tree",
        "with 64 GiB written through": "SGLang: host 64 GiB, written through",
        "written back": "SGLang: host 64 GiB, written back",
    }
    yield (
        f"**Memory below the GPU.** Hits: {rows.each('hit_ratio', names)}. TTFT p50: "
        f"{rows.each('ttft_p50_s', ends)}. SGLang's radix tree hits {rows.each('hit_ratio', trees)}, with a "
        f"TTFT p50 of {rows.each('ttft_p50_s', trees)}."
    )


def pressure(rows: Rows) -> Iterator[str]:
    swap, auto = "swap", "swap or recompute, by predicted cost"
    yield (
        f"**Swap or recompute.** TTFT p99 {rows('host 64 GiB, write-through', 'ttft_p99_s')} when all "
        "preempted "
        f"requests are recomputed, {rows(swap, 'ttft_p99_s')} when they are swapped "
        f"({rows.metric(swap, 'swap_out_count'):,} of {rows(swap, 'preemptions')}), "
        f"{rows(auto, 'ttft_p99_s')} "
        f"when the predicted cost decides (it swaps {rows.metric(auto, 'swap_out_count'):,} of "
        f"{rows(auto, 'preemptions')})."
    )


def formats(rows: Rows) -> Iterator[str]:
    names = {"in bf16": BASE, "in fp8": "fp8 cache", "in int4": "int4 cache"}
    yield (
        f"**Fewer bits on the GPU.** TTFT p99 {rows.each('ttft_p99_s', names)}; TPOT p50 "
        f"{rows.each('tpot_p50_s', names)}. What they cost in accuracy is not simulated."
    )


def allocation(rows: Rows) -> Iterator[str]:
    names = {
        "from slots of the longest context": "slots of the longest context",
        "from slots of the true length": "slots of the true length",
        "from regions that double": "contiguous, doubling",
        "from blocks": "no prefix cache",
        "from blocks that are found again": BASE,
    }
    waste = ratio(rows.metric("slots of the longest context", "internal_fragmentation"))
    holes = ratio(rows.metric("contiguous, doubling", "external_fragmentation"))
    yield (
        "**How memory is given out.** Output tokens a second: "
        f"{rows.each('output_tokens_per_s', names)}. Slots of "
        f"the longest context never use {waste} of what they hold; of the room that growing regions "
        "leave free, "
        f"{holes} lies outside the largest hole."
    )


def reuse(rows: Rows) -> Iterator[str]:
    names = {
        "in blocks of 16": BASE,
        "in units of 256 tokens": "units of 256 tokens",
        "in units of 2,048": "units of 2,048 tokens",
        "in SGLang's radix tree": "SGLang: radix tree",
        "with beginnings of 1k tokens pinned": "pinned: 1k tokens used twice, 5 min",
        "with beginnings of 8k tokens pinned": "pinned: 8k tokens used twice, 5 min",
    }
    pins = {label: names[label] for label in list(names)[-2:]}
    yield (
        f"**What is found again.** Hits: {rows.each('hit_ratio', names)}. TTFT p99: "
        f"{rows(BASE, 'ttft_p99_s')} "
        f"without pins, {rows.each('ttft_p99_s', pins)}: what is pinned is not there for running requests."
    )


def dropping(rows: Rows) -> Iterator[str]:
    found = [
        f"{name}: {ratio(rows.metric(name, 'dropped_share'))} dropped, peak "
        f"{rows(name, 'peak_used_bytes')}, "
        f"TTFT p99 {rows(name, 'ttft_p99_s')}"
        for name in rows.groups["Dropping tokens"]
    ]
    yield (
        f"**Dropping tokens.** {'; '.join(found)} (without: {rows('no prefix cache', 'ttft_p99_s')}). "
        "What was "
        "dropped cannot be asked for, and no prefix is found again."
    )


def answers(rows: Rows) -> Iterator[str]:
    names = {
        "with one answer": ONE_ANSWER,
        "with four that share their prompt's blocks": "four, copy-on-write",
        "with four requests": "four, as requests",
        "with four beams": "four beams",
    }
    yield (
        f"**Four answers a request.** Output tokens a second: {rows.each('output_tokens_per_s', names)}; "
        f"preemptions: {rows.each('preemptions', names)}."
    )


def routing(rows: Rows) -> Iterator[str]:
    names = [n for n in rows.groups["Two GPUs, twice the rate"] if n.startswith("2 replicas")]
    order = sorted(names, key=lambda name: rows.value(name, "ttft_p99_s"))
    spread = ", ".join(f"{rows(n, 'ttft_p99_s')} {n.partition(', ')[2]}" for n in order)
    one = {"tensor parallel": "tensor parallel", "context parallel": "context parallel"}
    yield (
        f"**Two GPUs.** TTFT p99 by how two replicas share requests: {spread}; one instance over both "
        "GPUs: "
        f"{rows.each('ttft_p99_s', one)}."
    )


def apart(rows: Rows) -> Iterator[str]:
    slow = {
        "whole": "2 prefill, 1 decode, whole, 5 GB/s",
        "layer by layer": "2 prefill, 1 decode, layerwise, 5 GB/s",
        "whole in fp8": "2 prefill, 1 decode, whole in fp8, 5 GB/s",
    }
    both = {"where all three do both": "3 replicas, least-loaded", "apart": "2 prefill, 1 decode, whole"}
    yield (
        f"**Prefill and decode apart.** TPOT p99 {rows.each('tpot_p99_s', both)}; TTFT p50 "
        f"{rows.each('ttft_p50_s', both)}. With 5 GB/s between them, TTFT p50 "
        f"{rows.each('ttft_p50_s', slow)}."
    )


def cost(rows: Rows) -> Iterator[str]:
    base, one = (rows.rows[name]["cpu_s"] for name in (BASE, ONE_ANSWER))
    above = [(row["cpu_s"] / base, name) for name, row in rows.rows.items() if row["cpu_s"] > 3 * base]
    most = max((row["cpu_s"] / base, name) for name, row in rows.rows.items())
    many = max((rows.rows[name]["cpu_s"] / one, name) for name in rows.rows if name.startswith("four"))
    text = ", ".join(f"{name} ({times:.1f})" for times, name in sorted(above, reverse=True)) or "none"
    yield (
        f"**What simulating costs.** {base:.1f} s of CPU for vLLM; rows above three times that: {text} "
        f"(the dearest: {most[1]}, {most[0]:.1f}). Of four answers and one at their rate, {many[1]} cost "
        f"{many[0]:.1f} times as much."
    )


FINDINGS = (
    eviction, tiers, pressure, formats, allocation, reuse, dropping, answers, routing, apart, cost,
)  # fmt: skip


def findings(workload: str, groups: dict[str, Any]) -> list[str]:
    """A list item a topic."""
    rows = Rows(workload, groups)
    return [f"* {sentence}" for finding in FINDINGS for sentence in finding(rows)]
