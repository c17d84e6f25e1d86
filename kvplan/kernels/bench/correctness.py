"""Correctness on the device, before anything is timed: every kernel against float64, writers to the bit,
graphs. A job is (kind, what): ``case``, ``write``, ``graph``, or ``warm`` to compile what will be timed (a
point, or a trial of ``tune``)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from kvplan.kernels import cases, matrix
from kvplan.kernels.bench import workload
from kvplan.kernels.bench.arena import Arena
from kvplan.kernels.bench.crew import LOST, Crew
from kvplan.kernels.bench.points import Point
from kvplan.kernels.cases import Case
from kvplan.kernels.formats import all_formats

GPU_CASES = tuple(
    Case(name, (5000, 4097, 1, 129), block_size=64, kv_heads=2, group=4, splits=splits, fused=splits > 8)
    for name in ("bf16", "fp8_e4m3", "int8_per_token_head", "int4", "int4_g64", "kivi2", "nvfp4")
    for splits in (1, 8, 23)
)
"""Longer than the interpreter can afford."""
PROMPT_CASES = tuple(
    replace(case, format=fmt.name)
    for fmt in all_formats() if not fmt.latent
    for case in (
        Case("", (700, 1300, 90), block_size=64, kv_heads=2, group=4, queries=(300, 77, 90)),
        Case("", (700, 1300), block_size=64, group=8, window=500, queries=(256, 40)),
        Case("", (400, 65), head_dim=256, block_size=128, group=2, queries=(200, 65)),
    )
)  # fmt: skip
"""Hundreds of query columns: other tiles than a few."""
HEADS_CASES = tuple(
    replace(case, format=name)
    for name in ("mla_bf16", "mla_fp8")
    for case in (
        Case("", (5000, 129), block_size=64, group=128),
        Case("", (5000, 129), block_size=64, group=128, splits=3, fused=True),
        Case("", (5000, 129), block_size=64, group=128, splits=11),
        Case("", (300, 65), block_size=64, group=128, splits=2, queries=(20, 65)),
    )
)
"""As many heads on a latent as models have."""
VERIFY_CASES = (
    *(
        Case(name, (5000, 4097, 9, 129), block_size=64, kv_heads=2, splits=23, queries=(8, 1, 5, 2))
        for name in ("bf16", "fp8_e4m3", "int8_per_token_head", "int4", "kivi2")
    ),
    *(
        Case(name, (3000, 1100), block_size=64, group=8, splits=8, queries=(8, 3))
        for name in ("bf16", "fp8_e4m3", "int8_per_token_head", "int4_g64")
    ),
    *(
        Case(name, (3000, 1100), block_size=64, group=16, splits=3, fused=True, queries=(8, 3))
        for name in ("mla_bf16", "mla_fp8")
    ),
)
"""Guessed tokens of long contexts: 32 columns in a decode tile, 64 in a prompt's and in a latent's."""
LONG_CASES = tuple(
    Case(name, (131072, 65537), block_size=64, group=4, splits=17)
    for name in ("bf16", "int8_per_token_head", "int4")
)
"""Where a folded bias, or a sum in too few bits, would show."""
GUESSED = "/guessed"
"""Behind a format: its graph has several tokens of a sequence, and others of them when it is replayed."""
PATIENCE_S = 120.0
"""A check compiles one kernel and computes one float64 answer; longer than this is a kernel that hangs."""


def jobs(tiny: bool, points: list[Point]) -> list[tuple[str, Any]]:
    """Everything to check, then every variant to compile: (kind, argument)."""
    every = [case for case in (*matrix.paged_cases(), *matrix.mla_cases()) if not case.fold]
    formats = [fmt.name for fmt in all_formats()]
    if tiny:
        return [("case", every[1]), ("case", every[-1]), ("write", "int4"), ("write", "kivi2")]
    every += [*GPU_CASES, *PROMPT_CASES, *HEADS_CASES, *VERIFY_CASES, *LONG_CASES]
    checks: list[tuple[str, Any]] = [("case", case) for case in every]
    checks += [("write", name) for name in formats]
    checks += [("graph", name) for name in ("bf16", "int4", "kivi4", f"bf16{GUESSED}", f"fp8_e4m3{GUESSED}")]
    return checks + [("warm", point) for point in variants_of(points)]


def variants_of(points: list[Point]) -> list[Point]:
    """Small stand-ins that compile every variant the points will launch: of one split, of a few that
    are combined in the same launch, of many."""
    seen: dict[tuple[object, ...], Point] = {}
    for p in points:
        many = p.hq // p.hkv > 8
        # More query columns than this choose nothing else.
        columns = min(p.new_tokens * p.hq // p.hkv, 65)
        new = min(p.new_tokens, 65)
        shape = (p.op, p.format, p.d, p.block_size, p.window, many, p.fused, columns, new == 1)
        # A page of 64 tokens is not split; larger ones are not where sequences are many.
        for context, batch in ((33, 1024 // p.hkv if p.block_size > 64 else 1), (256, 1)):
            small = replace(p, batch=batch, context=max(context, new), ragged=0, new_tokens=new)
            seen.setdefault((*shape, context), small)
        if not p.op.endswith("write"):
            # Split, and too large to be combined in the same launch.
            seen.setdefault((*shape, "staged"), replace(small, context=2048, fused=False))
    return list(seen.values())


def check(job: tuple[str, Any], device: str) -> dict[str, Any]:
    """Run one job; a row for the record, with ``ok``."""
    kind, what = job
    row: dict[str, Any] = {"key": key_of(job), "kind": kind, "ok": True}
    try:
        if kind == "case":
            built = cases.build(what, device)
            error, lse_error = cases.errors(built, *cases.run(what, built))
            bound = what.bound(interpreted=device == "cpu")
            ok = error <= bound and lse_error <= cases.LSE_BOUND
            row |= {"error": _number(error), "lse_error": _number(lse_error), "bound": bound, "ok": ok}
        elif kind == "write":
            difference = cases.check_write(what, device)
            row |= {"ok": difference is None, "message": difference}
        elif kind == "graph":
            row["ok"] = replays_equal(what, device)
        else:
            point, choice = (what, None) if isinstance(what, Point) else (what.point, what.choice)
            workload.build(point, Arena(device), 0, choice).calls[0]()
            if device == "cuda":
                torch.cuda.synchronize()
    except Exception as exc:  # a kernel that fails is a finding to record, not a reason to lose the others
        row |= failed(job, f"{type(exc).__name__}: {exc}")
        row[LOST] = device == "cuda" and device_lost()
    return row


def key_of(job: tuple[str, Any]) -> str:
    """Identity of a check in the record."""
    kind, what = job
    name = what if isinstance(what, str) else what.name if isinstance(what, Case) else what.key
    return f"{kind}/{name}"


def failed(job: tuple[str, Any], reason: str) -> dict[str, Any]:
    """The row of a check that gave no result."""
    return {"key": key_of(job), "kind": job[0], "ok": False, "message": reason[:500]}


def device_lost() -> bool:
    """Whether this process can no longer use the device, as after an illegal access."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def replays_equal(what: str, device: str) -> bool:
    """Whether a captured public call replays to what it gives eagerly, also after its queries have changed.

    Args:
        what: a format, with ``GUESSED`` behind it for several tokens of a sequence.
    """
    from kvplan.kernels.attention import paged_attention

    queries = (8, 3) if what.endswith(GUESSED) else None
    case = Case(what.removesuffix(GUESSED), (700, 300), block_size=64, kv_heads=2, queries=queries)
    built = cases.build(case, device)
    paged_attention(built.query, built.cache, built.batch)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, _ = paged_attention(built.query, built.cache, built.batch)
    equal = True
    for _ in range(2):
        graph.replay()
        eager, _ = paged_attention(built.query, built.cache, built.batch)
        equal &= bool(torch.equal(out, eager))
        built.query.normal_()
        if built.batch.query_starts is not None:
            built.batch.query_starts[1] = 3
    return equal


def _number(x: float) -> float | None:
    return None if math.isnan(x) else x


def run(work: list[tuple[str, Any]], device: str, late: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """Check everything: on a GPU in several processes, which also fills Triton's cache for this one."""
    if device == "cpu":
        for job in work:
            yield check(job, device)
        return
    # One core stays with this process, one with the system.
    size = max(1, min(14, (os.cpu_count() or 2) - 2, len(work)))
    yield from Crew(size, partial(_in_crew, device=device), failed, PATIENCE_S).run(work, late)


def _in_crew(job: tuple[str, Any], device: str) -> dict[str, Any]:
    # One CPU thread each for the float64 answers: the crew already fills the cores.
    torch.set_num_threads(1)
    return check(job, device)
