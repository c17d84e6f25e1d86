"""What SGLang is told where nobody says: tokens of a chunk, largest graph, share of memory for the pool.

Chunk and graphs grow with the GPU. The share, of weights and pool, is what is left of its memory once
activations (1.5 MiB a token of the chunk), graphs (2 MiB a sequence of the largest), parallelism and
data-parallel attention have theirs, as ``ServerArgs`` (later ``arg_groups/memory_hook.py``) of 0.5.1 to
0.5.23 reckons. What is said counts, too.

Sizing after capture (``SGLANG_ENABLE_POST_CAPTURE_KV_SIZING``, 0.5.16 on) is off unless asked for, but for
Muse Spark: what graphs take is then measured, and a share that leaves room for little else comes first. The
all-to-all buffers of DeepEP are not reckoned: nothing here asks for them.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvplan.sizing.sglang.graphs import (
    ANY_RANKS,
    CONTEXT_CAPS,
    OFF_WITH_DECODE,
    captured_prefill,
    prefill_graph_mib,
)
from kvplan.sizing.sglang.images import reads_images
from kvplan.sizing.sglang.names import Version, named, named_since
from kvplan.sizing.sglang.start import Asked
from kvplan.specs.schema import GpuSpec, ModelSpec

HEAVY_DRAFTER = (0, 5, 2)
"""A draft model holds back 6 GiB, no longer 2."""
BY_PARTS = (0, 5, 3)
"""The share follows from chunk and graphs; before, from the GPU's memory alone."""
GRAPHS_24 = (0, 5, 5)
"""Graphs of 24 sequences on GPUs of 20 to 35 GiB; before, 16."""
HEAVY_DRAFTS = (0, 5, 10)
"""Drafting layers hold back 4 GiB, no longer 2."""
DRAFTS_FREE = (0, 5, 14)
"""Drafting holds nothing back."""
GRAPHS_FREE = (0, 5, 15)
"""Without graphs of decodes nothing is held back for them."""
IMAGE_CACHE = (0, 5, 18)
"""100 MiB are kept for embeddings of images, beside the pool."""
LARGE_STEPS = (0, 5, 20)
"""GPUs of 20 to 35 GiB: chunks of 4,096 tokens and graphs of 48 sequences; before, 2,048 and 24."""
NO_MORE_THAN_RUN = (0, 5, 22)
"""No graph is larger than the limit on running requests, where one is given."""
AFTER_CAPTURE = {"musespark": (0, 5, 23)}
"""Models whose pool is sized once graphs are captured."""

AFTER_CAPTURE_MIB = 1536
IMAGES_AFTER_CAPTURE_MIB = 8 * 1024
FLOOR_MIB = 10 * 1024
"""Least that GPUs of more than 60 GiB hold back."""


@dataclass(frozen=True, slots=True)
class Reserve:
    """Tokens of a chunk, sequences of the largest graph, share of free memory for weights and pool.

    ``after_capture_bytes``: where the pool is sized once graphs are captured, the least that stays free then.
    """

    chunk: int
    graph_max_batch: int
    share: float
    after_capture_bytes: int | None = None


def sglang_reserve(asked: Asked) -> Reserve:
    """The defaults, with what was asked for in their place."""
    chunk, batch = _steps(asked)
    chunk = asked.chunk or chunk
    if asked.version >= NO_MORE_THAN_RUN and asked.running is not None:
        batch = min(batch, asked.running)
    if _after_capture(asked, chunk):
        return _before_capture(asked, chunk, batch)
    if asked.version < BY_PARTS:
        held = _by_memory(asked)
    else:
        held = _by_parts(asked, chunk, batch)
    share = round((asked.memory_mib - held) / asked.memory_mib, 3)
    return Reserve(chunk, batch, round(share * _beside_images(asked.model, asked.version), 6))


def image_cache_bytes(version: Version, gpu: GpuSpec, model: ModelSpec) -> int:
    """Kept beside the pool for embeddings of images.

    Qwen3-VL keeps none on Hopper of 60 GiB and more, where it is served as profiled.
    """
    if version < IMAGE_CACHE or not reads_images(model, version):
        return 0
    profiled = gpu.architecture == "hopper" and gpu.usable_memory_bytes >= 60 << 30
    return 0 if profiled and named_since(model, {"qwen3vl": LARGE_STEPS}, version) else 100 << 20


def _steps(asked: Asked) -> tuple[int, int]:
    """(tokens of a chunk, sequences of the largest graph)."""
    version, memory, few = asked.version, asked.memory_mib, asked.tp < 4
    if version < BY_PARTS:
        chunk = 2048 if memory < 35 * 1024 else 8192 if memory < 160 * 1024 else 16384
        if memory < 35 * 1024:
            return chunk, 8 if few else 80
        return chunk, 512 if memory > 160_000 else 256 if memory > 90 * 1024 else 160
    if memory < 20 * 1024:
        return 2048, 8
    if memory < 35 * 1024:
        if version >= LARGE_STEPS:
            return 4096, 48 if few else 160
        return 2048, (24 if version >= GRAPHS_24 else 16) if few else 80
    if memory < 60 * 1024:
        return 4096, 32 if few else 160
    if memory < 160 * 1024:
        return 8192, 256 if few else 512
    return 16384, 512


def _by_memory(asked: Asked) -> float:
    """MiB held back before ``BY_PARTS``."""
    memory, ranks = asked.memory_mib, asked.tp * asked.pp
    if memory < 35 * 1024:
        held = 2.8 + ranks / 10
    elif memory < 90 * 1024:
        held = 9.5 + ranks / 2
    elif memory < 160 * 1024:
        held = 12 + ranks / 2
    else:
        held = 32.0
    if asked.ranks > 1:
        held += 4
    if asked.drafts != "none":
        held += 6 if asked.drafts == "model" and asked.version >= HEAVY_DRAFTER else 2
    return held * 1024


def _by_parts(asked: Asked, chunk: int, batch: int) -> float:
    version = asked.version
    held = 512 + 1.5 * max(chunk, 2048) + 128 * asked.tp * asked.pp
    if asked.graphs or version < GRAPHS_FREE:
        held += 2 * batch
    if asked.ranks > 1:
        held += batch * asked.ranks * (4.5 if batch > 300 else 3)
    held += prefill_graph_mib(asked, _largest_prefill(asked, chunk))
    if asked.memory_mib > 60 * 1024:
        held = max(held, FLOOR_MIB)
    if asked.drafts != "none" and version < DRAFTS_FREE:
        held += 1024 * (6 if asked.drafts == "model" else 4 if version >= HEAVY_DRAFTS else 2)
    return held


def _after_capture(asked: Asked, chunk: int) -> bool:
    """Whether the pool is sized once graphs are captured, which the largest prefill must be among."""
    return (
        asked.model is not None and named_since(asked.model, AFTER_CAPTURE, asked.version) and asked.graphs
        and asked.gpu.vendor == "nvidia" and asked.pp == 1 and captured_prefill(chunk, chunk)
    )  # fmt: skip


def _before_capture(asked: Asked, chunk: int, batch: int) -> Reserve:
    """The share that comes first, and the activations of an eager step that are left out of it afterwards.

    Steps of more sequences than the largest graph has run without one.
    """
    parallel = 128 * asked.tp * asked.pp
    share = round((asked.memory_mib - AFTER_CAPTURE_MIB - parallel) / asked.memory_mib, 3)
    if asked.model is not None and reads_images(asked.model, asked.version):
        share -= IMAGES_AFTER_CAPTURE_MIB / asked.memory_mib
    eager = asked.running is None or asked.running > batch
    held = max(512 + 1.5 * max(chunk, 2048) + parallel, FLOOR_MIB if asked.memory_mib > 60 * 1024 else 0)
    return Reserve(chunk, batch, round(share, 6), int(held * (1 << 20)) if eager else 0)


def _largest_prefill(asked: Asked, chunk: int) -> int:
    """Tokens of the largest prefill graph of keys and values."""
    if CONTEXT_CAPS <= asked.version < ANY_RANKS and asked.context is not None:
        chunk = min(chunk, asked.context)
    if asked.model is not None and named_since(asked.model, {"llama2": OFF_WITH_DECODE}, asked.version):
        chunk = min(chunk, 4096)
    return chunk


def _beside_images(model: ModelSpec | None, version: Version) -> float:
    """Factor on the share where images are read: less of it the larger the tower.

    SGLang looks for the tower's layers and width under one name each, and takes 24 and 1,024 where a
    configuration has another: Qwen's calls the layers ``depth``, Qwen2-VL's width is the language model's.
    """
    if model is None or model.vision is None or not reads_images(model, version):
        return 1.0
    layers, width = model.vision.layers, model.vision.hidden_size
    if named(model, "qwen"):
        layers = 24
    if named(model, "qwen2vl"):
        width = model.hidden_size
    score = layers * width**2 / (24 * 1024**2)
    return 0.95 * max(0.8, min(1.05, 1.0 - 0.1 * (score - 1.0)))
