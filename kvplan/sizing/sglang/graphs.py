"""The CUDA graphs SGLang captures of prefills, for which it holds memory back.

Read from ``server_args.py`` and ``arg_groups/cuda_graph_hook.py`` of 0.5.10 to 0.5.23.
"""

from __future__ import annotations

from kvplan.sizing.sglang.images import reads_images
from kvplan.sizing.sglang.names import named_since
from kvplan.sizing.sglang.start import Asked
from kvplan.specs.schema import CompressedAttention, LatentAttention, ModelSpec
from kvplan.specs.state import KimiDeltaState

ON = (0, 5, 10)
"""Prefill graphs are captured unless something speaks against them."""
BESIDE_DRAFTS = (0, 5, 11)
"""Drafting no longer does."""
CONTEXT_CAPS = (0, 5, 13)
"""A context length that is given bounds them; sparse attention may have them."""
OFF_WITH_DECODE = (0, 5, 14)
"""``--disable-cuda-graph`` is about them, too."""
BREAKABLE = (0, 5, 15)
"""Captured in segments: pipelines may have them, latents may not."""
ANY_RANKS = (0, 5, 17)
"""Ranks of data-parallel attention and indexers may have them; the context length no longer bounds them."""
LATENT = (0, 5, 18)
"""Latents may have them, recurrent layers of Mamba 2 as well."""
ONE_STAGE = (0, 5, 19)
"""Pipelines may not."""
NO_KDA = (0, 5, 20)
"""Nor may Kimi's delta attention, except GLM-5's from 0.5.22 on."""

WITH_IMAGES = {
    "qwen35": (0, 5, 16), "qwen36": (0, 5, 16), "kimik2": (0, 5, 16), "minimaxm3": (0, 5, 16),
    "kimik3": (0, 5, 18), "museglimmer": (0, 5, 18), "paddleocr": (0, 5, 19), "cohere2vision": (0, 5, 14),
    "glm5": (0, 5, 20), "qwen4exp": (0, 5, 22), "musespark": (0, 5, 23),
}  # fmt: skip
"""Models that read images and have prefill graphs all the same."""
EXCLUDED = {"qwen3next": ON, "bailing": ON, "llada": ON}
"""Models that have none before ``BREAKABLE``."""

MIB_A_GRAPH = 8
MIB_OF_LATENTS = 1536


def prefill_graph_mib(asked: Asked, largest: int) -> int:
    """MiB held back for prefill graphs of up to ``largest`` tokens."""
    version, model = asked.version, asked.model
    if version < ON or asked.gpu.vendor != "nvidia" or not (asked.graphs or version < OFF_WITH_DECODE):
        return 0
    if model is None:
        return MIB_A_GRAPH * len(_captured(largest))
    if _has(model, CompressedAttention) or not (
        _breakable(asked, model) if version >= BREAKABLE else _piecewise(asked, model)
    ):
        return 0
    if reads_images(model, version) and not named_since(model, WITH_IMAGES, version):
        return 0
    return MIB_OF_LATENTS if _has(model, LatentAttention) else MIB_A_GRAPH * len(_captured(largest))


def _piecewise(asked: Asked, model: ModelSpec) -> bool:
    """Whether prefills are captured before ``BREAKABLE``."""
    if asked.ranks > 1 or asked.pp > 1 or (asked.drafts != "none" and asked.version < BESIDE_DRAFTS):
        return False
    if _indexed(model) and asked.version < CONTEXT_CAPS:
        return False
    return not named_since(model, EXCLUDED, asked.version)


def _breakable(asked: Asked, model: ModelSpec) -> bool:
    """Whether they are since."""
    version = asked.version
    if (asked.pp > 1 and version >= ONE_STAGE) or (asked.ranks > 1 and version < ANY_RANKS):
        return False
    states = [group.block.state for group in model.groups() if group.block.state is not None]
    if version < LATENT:
        indexed = version >= ANY_RANKS and _indexed(model)
        if _has(model, LatentAttention) and not indexed and not reads_images(model, version):
            return False
        if states and version >= ANY_RANKS and named_since(model, {"nemotron": ANY_RANKS}, version):
            return False
    delta = version >= NO_KDA and any(isinstance(state, KimiDeltaState) for state in states)
    return not delta or named_since(model, {"glm5": (0, 5, 22)}, version)


def _has(model: ModelSpec, kind: type) -> bool:
    return any(isinstance(group.block.attention, kind) for group in model.groups())


def _indexed(model: ModelSpec) -> bool:
    return any(getattr(group.block.attention, "indexer", None) is not None for group in model.groups())


def captured_prefill(largest: int, tokens: int) -> bool:
    """Whether a prefill of ``tokens`` runs in one of the graphs of up to ``largest``."""
    return max(_captured(largest), default=0) >= tokens


def _captured(largest: int) -> list[int]:
    """Tokens of the graphs of up to ``largest``."""
    sizes = (
        *range(4, 33, 4), *range(48, 257, 16), *range(288, 513, 32), *range(576, 1025, 64),
        *range(1280, 4097, 256), *range(4608, largest + 1, 512),
    )  # fmt: skip
    return [size for size in sizes if size <= largest]
