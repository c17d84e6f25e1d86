"""The part of the accuracy report that is about GPUs nobody measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kvplan.latency.fit.unseen import UnseenScore
from kvplan.latency.fit.unseen_steps import StepScore

_INTRODUCTION = """# Accuracy on a GPU that was not measured

Leave one GPU out: every table of a GPU is predicted from its datasheet and from constants that the *other*
generation's tables gave (`kvplan/latency/efficiency.py`: shares of peaks and bandwidth, latencies in cycles).
No row of the predicted GPU was fitted, but that Ampere's tables have no 8-bit multiplication: what quantising
activations takes is Hopper's. All of its rows are the test. Errors and bias as above. The bands'
half widths were chosen on these two experiments, one a direction, so that they cover about nine in ten of
each kind of kernel: with two GPUs there is nothing to hold out. A GPU of a generation that was measured is
predicted better than this (its own generation's constants), one of any other gets constants of both."""

_STEPS = """## Whole steps

The truth is a step composed of the GPU's measured kernels (its bundled profile), the prediction the datasheet
roofline's; engine overheads are the same in both. Dense and mixture-of-experts models of 1B to 70B at tensor
parallelism 1 to 8; decode: 1 to 256 requests of 256 to 16,384 tokens; prefill: prompts of 64 to 8,192 tokens.
*Band* is the roofline's stated one; a generation that was not measured gets it a quarter wider."""


def unseen_text(scores: Sequence[UnseenScore], left_out: Sequence[str], steps: Sequence[StepScore]) -> str:
    """Markdown; empty where nothing was scored."""
    if not scores:
        return ""
    lines = [*_INTRODUCTION.splitlines(), ""]
    for kind in dict.fromkeys(score.kind for score in scores):
        mine = [score for score in scores if score.kind == kind]
        tested = sum(score.tested for score in mine)
        # Each GPU counts alike, however many rows its tables have.
        gpus = list(dict.fromkeys(score.gpu for score in mine))
        covered = np.mean([_pooled([score for score in mine if score.gpu == gpu]) for gpu in gpus])
        lines.append(
            f"* {kind}: {tested:,} shapes, the band of ±{np.expm1(mine[0].half_width):.0%} covers "
            f"{covered:.1%}" + (" (mean of both directions)" if len(gpus) > 1 else " (one direction)")
        )
    header = "| GPU | kernel | constants of | tested on | median | p90 | bias | band covers | half width |"
    lines += ["", header, "| " + " | ".join(["---"] * 3 + ["---:"] * 6) + " |"]
    for score in scores:
        cells = [
            score.gpu, " ".join([score.op, *score.labels.values()]), score.donor, f"{score.tested:,}",
            f"{score.median:.1%}", f"{score.p90:.1%}", f"{score.bias:+.1%}", f"{score.coverage:.1%}",
            f"±{np.expm1(score.half_width):.0%}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    if left_out:
        lines += ["", "Left out, as timed with launches of eager code, which no datasheet tells: "]
        lines[-1] += "; ".join(left_out) + "."
    lines += ["", *_STEPS.splitlines(), ""]
    lines += ["| GPU | constants | steps | tested on | median | p90 | bias | band | covers |"]
    lines += ["| " + " | ".join(["---"] * 3 + ["---:"] * 6) + " |"]
    for step in steps:
        cells = [
            step.gpu, step.constants, step.steps, f"{step.tested:,}", f"{step.median:.1%}", f"{step.p90:.1%}",
            f"{step.bias:+.1%}", f"±{step.band:.0%}", f"{step.coverage:.1%}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _pooled(scores: Sequence[UnseenScore]) -> float:
    return sum(score.coverage * score.tested for score in scores) / sum(score.tested for score in scores)
