"""The shapes of kvplan in one place: models, GPUs, links. Import specs from here.

Reading order: ``model`` (how blocks are stacked), ``attention`` and ``state`` (what a layer keeps), ``mlp``
and ``hardware``. All are frozen pydantic models; ``base`` says why.
"""

from __future__ import annotations

from kvplan.specs.attention import (
    ChunkedAttention,
    CompressedAttention,
    CrossAttention,
    FullAttention,
    Indexer,
    LatentAttention,
    SelfAttention,
    SharedAttention,
    SlidingAttention,
)
from kvplan.specs.base import Source
from kvplan.specs.hardware import GpuSpec, Interconnect, LinkSpec
from kvplan.specs.mlp import DenseMlp, Mlp, MoeMlp
from kvplan.specs.model import (
    Block,
    Component,
    Draft,
    Encoder,
    ExtraWeights,
    LayerGroup,
    ModelSpec,
    Segment,
    Vision,
    Weights,
)
from kvplan.specs.state import State

__all__ = [
    "Block",
    "ChunkedAttention",
    "Component",
    "CompressedAttention",
    "CrossAttention",
    "DenseMlp",
    "Draft",
    "Encoder",
    "ExtraWeights",
    "FullAttention",
    "GpuSpec",
    "Indexer",
    "Interconnect",
    "LatentAttention",
    "LayerGroup",
    "LinkSpec",
    "Mlp",
    "ModelSpec",
    "MoeMlp",
    "Segment",
    "SelfAttention",
    "SharedAttention",
    "SlidingAttention",
    "Source",
    "State",
    "Vision",
    "Weights",
]
