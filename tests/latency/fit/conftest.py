"""Measurements of kernels that do not exist: made by the formulas, so that the truth is known."""

import numpy as np
import pytest

from kvplan.latency.fit.decode import DecodeAttention
from kvplan.latency.fit.gemm import Gemm
from kvplan.latency.fit.structure import Hardware

HARDWARE = Hardware("test-gpu", 100, 2e12, 40e6, 4e14)


def decode_grid():
    """Shapes like those of real tables: sizes are powers of two, KV below 4 GB."""
    rows = [
        (batch, ctx, 0, heads * group, heads, 128, 2)
        for batch in (1, 4, 16, 64, 256, 1024)
        for ctx in (16, 64, 256, 1024, 4096, 16384, 65536)
        for heads in (1, 2, 8)
        for group in (1, 4, 8)
        if batch * ctx * heads * 512 < 4e9
    ]
    names = ("batch", "ctx", "window", "q_heads", "kv_heads", "head_dim", "kv_element_bytes")
    return dict(zip(names, np.array(rows, dtype=float).T, strict=True))


@pytest.fixture(scope="session")
def decode_case():
    """(structure, true parameter values, shapes, noisy seconds)."""
    structure = DecodeAttention(HARDWARE)
    truth = np.array([p.start for p in structure.parameters()])
    truth[1] = 1.6e12  # bandwidth
    truth[0] = 5e-6
    truth[6] = 3e-6
    shapes = decode_grid()
    clean = structure.seconds(truth, shapes)
    noise = np.random.default_rng(5).normal(0.0, 0.02, clean.size)
    return structure, truth, shapes, clean * np.exp(noise)


@pytest.fixture(scope="session")
def gemm_structure():
    return Gemm(HARDWARE)
