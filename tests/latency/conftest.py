"""Clocks and batches that the latency tests share."""

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
