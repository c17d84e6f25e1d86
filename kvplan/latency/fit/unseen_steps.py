"""Whole steps of a GPU that nobody measured, against steps made of its measured kernels.

A bundled profile stands for the truth; the datasheet roofline predicts the same steps with the constants of
the other generation, with those of both that unmeasured generations get, and with the GPU's own. Overheads
are the same in truth and prediction, so what differs are kernels alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kvplan.engine.protocols import StepBatch
from kvplan.latency.build import build_latency
from kvplan.latency.efficiency import COMMON, GENERATIONS, Efficiency, efficiency_of
from kvplan.latency.roofline import TPOT_BAND, TTFT_BAND, Roofline
from kvplan.sizing.parallel import Parallel
from kvplan.specs.catalog import load_gpu, load_model
from kvplan.specs.formats import kv_format

DEPLOYMENTS = (
    ("llama-3.2-1b", 1), ("llama-3.1-8b", 1), ("llama-3.1-8b", 4), ("qwen2.5-7b", 1), ("qwen2.5-14b", 1),
    ("qwen3-32b", 2), ("mixtral-8x7b", 2), ("llama-3.1-70b", 4), ("llama-3.1-70b", 8),
)  # fmt: skip
"""(model, tensor-parallel ranks)."""
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTEXTS = (256, 1024, 4096, 16_384)
MOST_TOKENS = 1 << 19
PROMPTS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True, slots=True)
class StepScore:
    """Errors |predicted / composed of measured kernels - 1| of all deployments' steps of one kind."""

    gpu: str
    constants: str
    steps: str
    tested: int
    median: float
    p90: float
    bias: float
    coverage: float
    band: float


def decode_batches() -> Iterator[StepBatch]:
    """Decode steps: requests of one context."""
    for count in BATCHES:
        for context in CONTEXTS:
            if count * context <= MOST_TOKENS:
                yield StepBatch(count, count * context, count, count * context, [], count)


def prefill_batches() -> Iterator[StepBatch]:
    """Steps of one prompt."""
    for new in PROMPTS:
        yield StepBatch(new, 0, 0, 0, [(0, new)], 1)


def score_steps(name: str) -> list[StepScore]:
    """Scores of the GPU ``name``, which has a bundled profile and is of a measured generation."""
    gpu = load_gpu(name)
    own = efficiency_of(gpu)
    others = [item for item in GENERATIONS.values() if item is not own]
    candidates = [(f"the other generation's ({item.name})", item) for item in others]
    candidates += [("both generations'", COMMON), ("its own generation's", own)]
    return [score for label, item in candidates for score in _score(name, label, item)]


def _score(name: str, label: str, efficiency: Efficiency) -> Iterator[StepScore]:
    ratios: dict[str, list[float]] = {"decode": [], "prefill": []}
    for model, tp in DEPLOYMENTS:
        truth, sheet = (
            build_latency(
                {"model": kind}, model=load_model(model), gpu=load_gpu(name), parallel=Parallel(tp=tp),
                kv_format=kv_format("bf16"), weights_format=None, block_size=16,
            ).model
            for kind in ("profile", "roofline")
        )  # fmt: skip
        assert isinstance(sheet, Roofline)
        guess = Roofline(sheet.work, sheet.gpu, sheet.exchange, sheet.constants, sheet.launching, efficiency)
        for steps, batches in (("decode", decode_batches()), ("prefill", prefill_batches())):
            ratios[steps] += [guess.step_seconds(b) / truth.step_seconds(b) for b in batches]
    for steps, band in (("decode", TPOT_BAND[1]), ("prefill", TTFT_BAND[1])):
        ratio = np.array(ratios[steps])
        error = np.abs(ratio - 1.0)
        yield StepScore(
            name, label, steps, int(ratio.size), float(np.median(error)), float(np.quantile(error, 0.9)),
            float(np.median(ratio) - 1.0), float(np.mean(error <= band)), band,
        )  # fmt: skip
