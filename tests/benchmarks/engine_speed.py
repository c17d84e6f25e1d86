"""CPU seconds and peak memory of whole ``kvplan simulate`` processes, as the operating system counts them.

``make bench`` runs this and writes ``reports/engine-speed``. Every case runs several times; the table shows
the median and the least. A plain Python loop is timed before and after, so that a reader can see how busy
the machine was. Not a timed test: nothing here passes or fails.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import math
import os
import platform
import pstats
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run

ENGINE = (
    "--blocks", "28000", "--block-size", "16", "--latency", "linear",
    "--set", "latency.a=5.0e-3", "--set", "latency.b=2.0e-5", "--set", "latency.c=1.0e-8",
    "--set", "engine.max_num_seqs=256", "--set", "engine.max_num_batched_tokens=2048", "--quiet",
)  # fmt: skip

FIXED = ("--synthesize", "fixed", "--rate", "20", "--set", "workload.prompt_tokens=1024",
         "--set", "workload.output_tokens=256")  # fmt: skip


WINDOW = 128
GROUPS = ("--blocks", "56000", "--set",
          f"cache.groups=[{{kind: full}}, {{kind: sliding, window: {WINDOW}}}]")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One command and what it should stay under: CPU seconds and MiB, or None."""

    name: str
    arguments: tuple[str, ...]
    cpu_s: float | None
    memory_mib: float | None
    rounds: int


@dataclass(frozen=True, slots=True)
class Measured:
    """CPU seconds of each round, the largest resident set, and what was simulated."""

    cpu_s: tuple[float, ...]
    memory_mib: float
    requests: int
    steps: int


def cases(trace: Path | None) -> list[Case]:
    """All cases; the trace replay only where the trace is."""
    found = [
        Case(f"{count:,} x (1024 in / 256 out), 20/s", (*FIXED, "--limit", str(count)), bar, memory, rounds)
        for count, bar, memory, rounds in (
            (1, None, None, 5),
            (10_000, 1.0, 90.0, 5),
            (100_000, None, None, 3),
            (1_000_000, 60.0, 500.0, 1),
        )
    ]
    if trace is not None:
        replay = ("--trace", str(trace))
        found.insert(2, Case("Mooncake conversation, 12,031 requests", replay, 3.0, 250.0, 5))
        found.insert(
            3, Case(f"the same, full attention + window of {WINDOW}", (*replay, *GROUPS), None, None, 3)
        )
    return found


def measure(case: Case, out: Path) -> Measured:
    """Run the case's command ``rounds`` times."""
    cpu: list[float] = []
    peak = 0.0
    for _ in range(case.rounds):
        used, memory = _child(
            [sys.executable, "-m", "kvplan", "simulate", *ENGINE, *case.arguments, "-o", str(out)]
        )
        cpu.append(used)
        peak = max(peak, memory)
    totals = json.loads(out.read_text())["totals"]
    return Measured(tuple(cpu), peak, totals["requests"], totals["steps"])


def _child(command: Sequence[str]) -> tuple[float, float]:
    """CPU seconds (user + system) and peak MiB of one child process."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} exited with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def yardstick() -> float:
    """CPU seconds of a fixed Python loop: how fast this machine is right now."""
    started = time.process_time()
    total = 0
    for number in range(3_000_000):
        total += number
    return time.process_time() - started


def profile() -> list[tuple[str, float]]:
    """Own time of the functions that take most of 10,000 requests, as shares of the simulation (no start-up).

    Python's profiler charges every call, so small functions look a little larger than they are.
    """
    flags = {
        "workload.synthesize": "fixed", "workload.rate": 20.0, "workload.requests": 10_000,
        "workload.prompt_tokens": 1024, "workload.output_tokens": 256, "cache.blocks": 28_000,
        "latency.model": "linear", "latency.a": 5e-3, "latency.b": 2e-5, "latency.c": 1e-8,
        "engine.max_num_seqs": 256, "engine.max_num_batched_tokens": 2048,
    }  # fmt: skip
    run = Run(load_scenario(None, flags))
    profiler = cProfile.Profile()
    profiler.enable()
    run.execute()
    profiler.disable()
    stats = pstats.Stats(profiler).stats.items()  # type: ignore[attr-defined]
    total = sum(entry[2] for _, entry in stats)
    own: dict[str, float] = {}
    for (path, _, function), entry in stats:
        module = path.rpartition("kvplan/")[2] if "kvplan/" in path else "Python itself"
        name = f"{module}: {function}" if "kvplan/" in path else module
        own[name] = own.get(name, 0.0) + entry[2] / total
    return sorted(own.items(), key=lambda item: -item[1])[:12]


def exponent(results: dict[str, Measured]) -> float:
    """How CPU grows with requests: slope of log CPU over log requests, start-up left out."""
    points = sorted((item.requests, min(item.cpu_s)) for name, item in results.items() if " x (" in name)
    (small, cost_small), (large, cost_large) = points[-2], points[-1]
    return math.log(cost_large / cost_small) / math.log(large / small)


def report(results: dict[str, Measured], wanted: list[Case], before: float, after: float) -> str:
    """The Markdown page."""
    lines = [
        "# Engine speed", "",
        "Whole process, start-up and result included: CPU seconds (user + system) and peak resident memory as",
        "the operating system counts them. Pool of 28,000 blocks of 16, 256 sequences, 2,048 batched tokens,",
        "asynchronous scheduling, linear clock.", "",
        "| case | requests | steps | CPU s, median | CPU s, least | bar | peak MiB | bar |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for case in wanted:
        item = results[case.name]
        lines.append(
            f"| {case.name} | {item.requests:,} | {item.steps:,} | {statistics.median(item.cpu_s):.2f} | "
            f"{min(item.cpu_s):.2f} | {_bar(case.cpu_s)} | {item.memory_mib:.0f} | {_bar(case.memory_mib)} |"
        )
    lines += [
        "", "One request is what start-up costs: Python, typer, pydantic, rich, and this project's modules.",
        "", f"CPU grows with the number of requests to the power {exponent(results):.2f} (100,000 to 1,000,000).",
        "", f"Machine: Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} CPUs. A loop of",
        f"3,000,000 additions took {before:.2f} CPU s before and {after:.2f} after: where it takes longer, so does",
        "everything above.", "",
        "## Where the time of 10,000 requests goes", "",
        "Own time by Python's profiler, start-up left out; the rest is spread over smaller functions.", "",
        "| function | share |", "| --- | ---: |",
        *(f"| `{name}` | {share:.0%} |" for name, share in profile()),
        "", "Command: `make bench`.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _bar(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def main() -> None:
    """Measure, print, and write ``report.md`` and ``result.json`` into ``--write``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, required=True)
    options = parser.parse_args()
    options.write.mkdir(parents=True, exist_ok=True)
    project = Path(__file__).resolve().parents[2]
    shared = Path(os.environ.get("KVPLAN_SHARED", project.parent / "shared"))
    trace = shared / "data" / "traces" / "mooncake-conversation" / "conversation_trace.jsonl"
    wanted = cases(trace if trace.is_file() else None)
    local = project / "reports" / "local"
    local.mkdir(parents=True, exist_ok=True)
    before = yardstick()
    results = {case.name: measure(case, local / "bench.json") for case in wanted}
    text = report(results, wanted, before, yardstick())
    sys.stdout.write(text)
    (options.write / "report.md").write_text(text)
    raw = {
        name: {
            "cpu_s": item.cpu_s,
            "memory_mib": item.memory_mib,
            "requests": item.requests,
            "steps": item.steps,
        }
        for name, item in results.items()
    }
    (options.write / "result.json").write_text(json.dumps(raw, indent=2) + "\n")


if __name__ == "__main__":
    main()
