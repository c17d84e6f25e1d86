"""Correctness on the device, before anything is timed: every kernel against float64, writers to the bit,
graphs."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import torch

from kvplan.kernels import cases, matrix
from kvplan.kernels.attention import paged_attention
from kvplan.kernels.bench.points import Point
from kvplan.kernels.cases import Case
from kvplan.kernels.formats import all_formats

GPU_CASES = tuple(
    Case(name, (5000, 4097, 1, 129), block_size=64, kv_heads=2, group=4, splits=splits, fused=splits > 8)
    for name in ("bf16", "fp8_e4m3", "int8_per_token_head", "int4", "int4_g64", "kivi2", "nvfp4")
    for splits in (1, 8, 23)
)
"""Longer than the interpreter can afford."""


def jobs(tiny: bool, points: list[Point]) -> list[tuple[str, Any]]:
    """Everything to check, then every variant to compile: (kind, argument)."""
    every = [case for case in (*matrix.paged_cases(), *matrix.mla_cases()) if not case.fold]
    formats = [fmt.name for fmt in all_formats()]
    if tiny:
        return [("case", every[1]), ("case", every[-1]), ("write", "int4"), ("write", "kivi2")]
    checks: list[tuple[str, Any]] = [("case", case) for case in (*every, *GPU_CASES)]
    checks += [("write", name) for name in formats] + [("graph", name) for name in ("bf16", "int4", "kivi4")]
    return checks + [("warm", point) for point in variants_of(points)]


def variants_of(points: list[Point]) -> list[Point]:
    """Small stand-ins that compile every variant the points will launch."""
    seen: dict[tuple[object, ...], Point] = {}
    for p in points:
        many = p.hq // p.hkv > 8
        for context in (64, 2048):
            key = (p.op, p.format, p.d, p.block_size, p.window > 0, many, p.fused, context, p.new_tokens > 1)
            small = replace(p, batch=1, context=context, ragged=0, new_tokens=min(p.new_tokens, 64))
            seen.setdefault(key, small)
    return list(seen.values())


def check(job: tuple[str, Any], device: str) -> dict[str, Any]:
    """Run one job; a row for the record, with ``ok``."""
    kind, what = job
    name = what if isinstance(what, str) else what.name if isinstance(what, Case) else what.key
    row: dict[str, Any] = {"key": f"{kind}/{name}", "kind": kind, "ok": True}
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
            from kvplan.kernels.bench.workload import build

            build(what, device, 0).calls[0]()
            torch.cuda.synchronize()
    except Exception as exc:  # a kernel that fails is a finding to record, not a reason to lose the others
        row |= {"ok": False, "message": f"{type(exc).__name__}: {exc}"[:500]}
    return row


def replays_equal(format_name: str, device: str) -> bool:
    """Whether a captured public call replays to what it gives eagerly, also after the cache has changed."""
    case = Case(format_name, (700, 300), block_size=64, kv_heads=2)
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
    return equal


def _number(x: float) -> float | None:
    return None if math.isnan(x) else x


def run(work: list[tuple[str, Any]], device: str) -> Iterator[dict[str, Any]]:
    """Check everything: on a GPU in several processes, which also fills Triton's cache for this one."""
    if device == "cpu":
        for job in work:
            yield check(job, device)
        return
    workers = max(1, min(12, (os.cpu_count() or 2) - 2))
    # One CPU thread each for the float64 answers: the workers already fill the cores.
    pool_of = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    )
    with pool_of as pool:
        yield from pool.map(check, work, [device] * len(work))
