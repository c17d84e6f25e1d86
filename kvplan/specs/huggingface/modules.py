"""Which weights a list of module names means: the names modules have in checkpoints, and patterns over them.

Lists of modules to leave alone name single layers (``model.layers.3.self_attn*``), whole kinds of module
(``re:.*self_attn.*``) or parts beside the layers (``lm_head``). A component of the spec is tested by the
names its modules have in the layers that own it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

from kvplan.specs.model import Block, Component

PREFIXES = (
    "model.layers.",
    "model.language_model.layers.",
    "language_model.model.layers.",
    "backbone.layers.",
)

IN_LAYER: dict[Component, tuple[str, ...]] = {
    "attention": ("self_attn.q_proj", "self_attn.o_proj", "self_attn.kv_b_proj", "attn.wq_b", "mixer.q_proj"),
    "state": ("linear_attn.in_proj_qkv", "linear_attn.in_proj_qkvz", "mixer.in_proj", "mamba.in_proj"),
    "indexer": ("self_attn.indexer.wq_b", "attn.indexer.wq_b"),
    "router": ("mlp.gate", "mlp.router", "block_sparse_moe.gate", "mixer.gate", "feed_forward.router"),
    "shared_experts": (
        "mlp.shared_experts.up_proj", "mlp.shared_expert.up_proj", "mixer.shared_experts.up_proj",
        "ffn.shared_experts.w1", "feed_forward.shared_expert.up_proj",
    ),
    "experts": (
        "mlp.experts.3.up_proj", "block_sparse_moe.experts.3.w1", "mixer.experts.3.up_proj",
        "ffn.experts.3.w1", "feed_forward.experts.up_proj",
    ),
    "dense_mlp": ("mlp.up_proj", "mlp.gate_up_proj", "feed_forward.up_proj", "mixer.up_proj", "ffn.w1"),
}  # fmt: skip
"""Names of the modules of a component inside a layer, over the families of architectures."""

BESIDE: dict[Component, tuple[str, ...]] = {
    "embeddings": ("model.embed_tokens", "language_model.model.embed_tokens"),
    "lm_head": ("lm_head", "language_model.lm_head", "head"),
    "draft": ("mtp.layers.0.mlp.up_proj", "model.mtp.layers.0.mlp.up_proj"),
    "vision": ("model.visual.blocks.0.mlp.fc1", "vision_tower.encoder.0.mlp.fc1", "visual.blocks.0.attn.qkv"),
}
"""Names of the modules of a component beside the layers."""

LONGEST_PATTERN = 200


def owners(component: Component, stack: Sequence[Block]) -> list[int]:
    """Indices of the layers that have the component."""
    return [index for index, block in enumerate(stack) if _has(block, component)]


def _has(block: Block, component: Component) -> bool:
    mlp = block.mlp
    experts = mlp if mlp is not None and mlp.kind == "moe" else None
    return {
        "attention": block.attention is not None or block.cross is not None,
        "state": block.state is not None,
        "indexer": getattr(block.attention, "indexer", None) is not None,
        "router": experts is not None,
        "experts": experts is not None,
        "shared_experts": experts is not None and experts.shared_intermediate_size > 0,
        "dense_mlp": mlp is not None and (experts is None or experts.dense is not None),
    }.get(component, False)


def names_in_layer(component: Component, layer: int) -> Iterator[str]:
    """Names the component's modules may have in layer ``layer``."""
    for module in IN_LAYER[component]:
        for prefix in PREFIXES:
            yield f"{prefix}{layer}.{module}"


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern means a module: a name, part of one, a glob, or ``re:`` and a plain expression."""
    if pattern.startswith("re:"):
        expression = _plain_expression(pattern[3:])
        if expression is not None:
            return expression.match(name) is not None
        # An expression of an untrusted file that is not plainly cheap is not run: its words are compared.
        words = re.findall(r"[a-z_]{4,}", pattern[3:])
        return bool(words) and all(word in name for word in words)
    glob = pattern.replace("[", "[[]")
    if fnmatchcase(name, glob) or fnmatchcase(name, f"{glob}.*"):
        return True
    return f".{pattern}." in f".{name}."


_PIECES = re.compile(r"[\w\-]|\\[.\d]|\\d\+|\[0-9\]\+?|\.\*\??|\.\+|\.|\||\((?:\?:)?|\)\??|\^|\$")


@lru_cache(maxsize=4096)
def _plain_expression(text: str) -> re.Pattern[str] | None:
    """The expression, when it is words, dots, alternatives and at most four open ends: cheap on any name."""
    if len(text) > LONGEST_PATTERN:
        return None
    end = open_ends = 0
    for piece in _PIECES.finditer(text):
        if piece.start() != end:
            return None
        end = piece.end()
        open_ends += piece.group() in (".*", ".*?", ".+", r"\d+", "[0-9]+")
    if end != len(text) or open_ends > 4:
        return None
    try:
        return re.compile(text)
    except re.error:
        return None
