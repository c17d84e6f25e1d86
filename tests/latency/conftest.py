"""Clocks, and the measurements of a GPU that does not exist, that the latency tests share."""

import json
from dataclasses import replace

import numpy as np
import pytest

from kvplan.latency.build import build_latency
from kvplan.sizing.parallel import Parallel
from kvplan.specs.catalog import load_gpu, load_model
from kvplan.specs.formats import kv_format


@pytest.fixture(scope="session")
def clock_of():
    """``clock_of("roofline", model, gpu, tp=1, ...)``: a clock built as the scenario runner builds it."""

    def build(
        kind, model="llama-3.1-8b", gpu="h100-sxm", *, tp=1, pp=1, cp=1, kv="bf16", weights=None, **spec
    ):
        shape = load_model(model) if isinstance(model, str) else model
        chip = load_gpu(gpu) if isinstance(gpu, str) else gpu
        return build_latency(
            {"model": kind, **spec},
            model=shape,
            gpu=chip,
            parallel=Parallel(tp=tp, pp=pp, cp=cp),
            kv_format=kv_format(kv),
            weights_format=weights,
            block_size=16,
        )

    return build


FORMATS = {
    # kernel format: share of the bandwidth, seconds a token of one program (head_dim 128), launch
    "bf16": (0.93, 1.2e-8, 5.0e-6),
    "fp16": (0.92, 1.25e-8, 5.1e-6),
    "fp8_e4m3": (0.89, 1.0e-8, 5.4e-6),
    "fp8_e5m2": (0.87, 0.95e-8, 5.3e-6),
    "int8": (0.86, 1.0e-8, 5.5e-6),
    "int8_per_head": (0.86, 1.05e-8, 5.6e-6),
    "int8_per_token_head": (0.84, 1.1e-8, 5.6e-6),
    "int4": (0.66, 0.9e-8, 5.8e-6),
    "int4_g64": (0.62, 0.95e-8, 5.9e-6),
    "int4_g32": (0.60, 1.0e-8, 6.0e-6),
    "kivi4": (0.55, 1.05e-8, 6.6e-6),
    "kivi2": (0.36, 0.95e-8, 6.8e-6),
    "nvfp4": (0.58, 1.0e-8, 6.0e-6),
    "mxfp4": (0.59, 1.0e-8, 6.0e-6),
    "mla_bf16": (0.80, 4e-8, 7e-6),
    "mla_fp8": (0.62, 4.4e-8, 7.4e-6),
}
VERIFYING = {2: 1.05, 4: 1.2, 8: 1.5}
"""What several tokens of a sequence take beyond as many more query heads."""
BANDWIDTH, SMS, TENSOR = 3.35e12, 132, 9.9e14


def seconds_of(point):
    """A kernel that is not the fitted formula: whole splits, whole waves, another way of overlapping."""
    from kvplan.kernels.splits import choose_splits

    if point.stage == "verify":
        one = replace(point, stage="x", op=point.op.replace("append", "decode"), new_tokens=1)
        fixed, body, splits = seconds_of(replace(one, hq=point.hq * point.new_tokens))
        return fixed, body * VERIFYING[point.new_tokens], splits
    share, token, launch = FORMATS[point.format]
    rate = share * BANDWIDTH
    if point.op in ("write", "mla_write"):
        return launch / 2, (point.kv_bytes() + point.io_bytes()) / (0.5 * BANDWIDTH), 0
    if point.op == "append":
        return launch, point.flops() / (0.45 * TENSOR) + point.new_tokens * 2e-9 + point.context * 4e-9, 1
    mla = point.op == "mla"
    group = point.hq // point.hkv
    programs = point.batch * (-(-point.hq // 16) if mla else point.hkv * -(-group // 8))
    lengths = point.lengths()
    splits = choose_splits(
        programs=programs, tokens=max(lengths), multiprocessors=SMS, per_multiprocessor=2 if mla else 3,
        enough=2, smallest_share=64, window=point.window, ring=point.format.startswith("kivi"),
    )  # fmt: skip
    longest = min(max(lengths), point.window or max(lengths))
    waves = -(-programs * splits // (SMS * (2 if mla else 3)))
    stream = point.kv_bytes() / rate
    walk = waves * (1.5e-6 + -(-longest // splits) * token * point.d / 128 * (1 if mla else 0.5))
    work = point.flops() / (0.4 * TENSOR)
    body = (stream**3 + walk**3 + work**3) ** (1 / 3) + point.io_bytes() / BANDWIDTH
    page = {16: 1.06, 256: 0.99}.get(point.block_size, 1.0)
    merge = 1.5e-6 + 1e-8 * splits if splits > 1 else 0.0
    return launch + merge, body * page, splits


def make_document(seed=0, noise=0.015):
    """A complete ``kvplan.kernel-measurements/1`` of an invented H100: every stage, format and ceiling."""
    from kvplan.kernels.bench import points

    rng = np.random.default_rng(seed)

    def timing(seconds):
        median = float(seconds * np.exp(rng.normal(0.0, noise)))
        return {"median_s": median, "p25_s": median * 0.995, "p75_s": median * 1.006, "least_s": median * 0.99,
                "repetitions": 20, "calls_per_repetition": 16}  # fmt: skip

    rows = []
    stages = [points.drift(0), points.holdout(), points.grid(), points.side(), points.drift(1)]
    for point in (p for stage in stages for p in stage):
        fixed, body, splits = seconds_of(point)
        chosen = {"splits": splits, "buffers": 1, "fused": point.fused and splits > 1}
        rows.append(point.row() | chosen | timing(fixed + body))
    ceilings = [
        {"key": "copy", "bytes": 8 << 30, **timing((8 << 30) / (0.9 * BANDWIDTH))},
        {"key": "read", "bytes": 4 << 30, **timing((4 << 30) / (0.94 * BANDWIDTH))},
        {"key": "launch/graph", **timing(1.6e-6)},
        {"key": "launch/eager", **timing(4e-6)},
    ]
    for inner, outer in ((4096, 4096), (8192, 8192), (4096, 14336)):
        for tokens in (2**i for i in range(15)):
            flops = 2 * tokens * inner * outer
            sizes = {"tokens": tokens, "features_in": inner, "features_out": outer, "flops": flops}
            for dtype, width, peak in (("bf16", 2, 0.7 * TENSOR), ("fp8", 1, 1.3 * TENSOR)):
                if dtype == "fp8" and tokens % 16:
                    continue
                tiles = -(-tokens // 128) * -(-outer // 128)
                compute = -(-tiles // SMS) * SMS * 128 * 128 * inner * 2 / peak
                memory = (inner * outer * width + 2 * tokens * (inner + outer)) / (0.9 * BANDWIDTH)
                seconds = 3e-6 + (min(compute, 3 * flops / peak + memory) ** 4 + memory**4) ** 0.25
                ceilings.append(
                    {"key": f"matmul_{dtype}/{tokens}x{inner}x{outer}", **sizes, **timing(seconds)}
                )
    for mebi in (1, 16, 256):
        for pinned in (True, False):
            for direction in ("to_device", "to_host"):
                ceilings.append(
                    {"key": f"host/{direction}/{'pinned' if pinned else 'pageable'}/{mebi}MiB",
                     "bytes": mebi << 20, "direction": direction, "pinned": pinned,
                     **timing(1e-5 + (mebi << 20) / (5.5e10 if pinned else 9e9))}
                )  # fmt: skip
    environment = {
        "kvplan": "0", "kernels": "0123abcd", "torch": "2.13.0", "cuda": "13.0", "triton": "3.9.0",
        "python": "3.11", "machine": "x86_64", "system": "6", "started": "2026-11-21T00:00:00+00:00",
        "device": "NVIDIA H100 80GB HBM3", "capability": "9.0", "multiprocessors": SMS,
        "memory_bytes": 85 << 30, "l2_bytes": 50 << 20, "dry_run": False,
        "gpu_state": {"driver_version": "580.1", "clocks.sm": "1980 MHz"},
    }  # fmt: skip
    return {
        "schema": "kvplan.kernel-measurements/1", "environment": environment, "complete": True,
        "correctness": [{"key": "case/a", "kind": "case", "ok": True, "error": 1e-4, "bound": 1e-3}],
        "ceilings": ceilings, "points": rows, "peers": [], "failures": [],
    }  # fmt: skip


@pytest.fixture(scope="session")
def true_seconds():
    """``true_seconds(point)``: (seconds before any byte moves, the rest, splits) of the invented GPU."""
    return seconds_of


@pytest.fixture(scope="session")
def document():
    """An invented H100's measurements."""
    return make_document()


@pytest.fixture(scope="session")
def short_document(document):
    """Everything of the document but most of its grid, so that fitting it takes seconds."""
    few = {(1, 2048), (16, 2048), (4, 8192), (64, 8192)}

    def kept(p):
        if p["stage"] != "grid" or p["format"] in ("bf16", "int4_g64"):
            return True
        return (p["hq"], p["hkv"]) == (32, 8) and (p["batch"], p["context"]) in few

    points = [p for p in document["points"] if kept(p)]
    shapes = ("copy", "read", "launch", "host", "matmul_bf16")
    return {
        **document,
        "points": points,
        "ceilings": [c for c in document["ceilings"] if c["key"].startswith(shapes)],
    }


@pytest.fixture(scope="session")
def own_profile(tmp_path_factory, short_document):
    """The file of a profile that the command fitted to the short document."""
    from kvplan.cli.app import run

    folder = tmp_path_factory.mktemp("own")
    (folder / "m.json").write_text(json.dumps(short_document), encoding="utf-8")
    words = ["calibrate", "--from", str(folder / "m.json"), "-o", str(folder / "own.json"), "--points", "80"]
    assert run(words) == 0
    return folder / "own.json"
