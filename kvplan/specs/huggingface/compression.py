"""DeepSeek-V4 and V4.1: a short window beside entries that stand for several tokens each.

V4 compresses in every layer with a ratio. V4.1 names the layers that do (``kv_source_layer_ids``) and those
that choose tokens (``index_source_layer_ids``); the layers above them re-use entries and choice.
"""

from __future__ import annotations

from kvplan.specs.attention import CompressedAttention, Indexer
from kvplan.specs.huggingface.config import Config
from kvplan.specs.huggingface.heads import query_heads
from kvplan.specs.huggingface.indexers import indexer

SOURCES = ("kv_source_layer_ids", "kv_source_layers")
INDEX_SOURCES = ("index_source_layer_ids", "index_source_layers")
RATIOS = {0: "sliding", 1: "sliding", 4: "csa", 128: "hca"}
"""Kinds of layers by ratio where all of them compress; engines take a ratio of 1 for none (vLLM's V4)."""


def ratio_kinds(config: Config, layers: int) -> list[str] | None:
    """The kind of every layer where a list of ratios says it; entries of drafting layers follow and are cut.

    Raises:
        SpecError: a ratio that is not known.
    """
    if not isinstance(config.get("compress_ratios", defaults=False), list):
        return None
    listed = config.per_layer("compress_ratios", layers) or []
    shared = _listed(config, SOURCES) is not None
    kinds = []
    for item in listed:
        if type(item) is not int or (item < 0 if shared else item not in RATIOS):
            raise config.error(f"unknown compression ratio {item!r}", "compress_ratios")
        kinds.append(("csa" if item else "sliding") if shared else RATIOS[item])
    return kinds


def compressed(config: Config, kind: str, layer: int) -> CompressedAttention:
    """The attention of layer ``layer``.

    Raises:
        SpecError: a field that is missing, or sources that are no numbers of layers.
    """
    sources = _listed(config, SOURCES)
    ratio = _ratio(config, kind) if sources is None else _own_ratio(config, kind, layer)
    rope = config.optional("qk_rope_head_dim") or 64
    if sources is None:
        compresses, own = True, indexer(config, 0, 1) if kind == "csa" else None
    else:
        compresses = bool(ratio) and layer in sources
        if ratio and not any(source <= layer for source in sources):
            raise config.error(
                f"layer {layer} reads the entries of an earlier layer, and none is", SOURCES[0]
            )
        own = _source_indexer(config, layer, compresses=compresses) if ratio else None
    return CompressedAttention.model_construct(
        query_heads=query_heads(config),
        head_dim=config.count("head_dim"),
        rope_head_dim=rope,
        window=config.count("sliding_window"),
        ratio=ratio,
        overlap=kind == "csa" and sources is None,
        compresses=compresses,
        keys_from_entries=sources is not None,
        q_lora_rank=config.count("q_lora_rank"),
        o_lora_rank=config.count("o_lora_rank"),
        o_groups=config.count("o_groups"),
        indexer=own,
    )


def _ratio(config: Config, kind: str) -> int:
    rates = config.sub("compress_rates")
    if kind == "csa":
        return int(rates.integer("compressed_sparse_attention", 4)) if rates else 4
    if kind == "hca":
        return int(rates.integer("heavily_compressed_attention", 128)) if rates else 128
    return 0


def _own_ratio(config: Config, kind: str, layer: int) -> int:
    if kind == "sliding":
        return 0
    listed = config.items("compress_ratios") or []
    return int(listed[layer])


def _source_indexer(config: Config, layer: int, *, compresses: bool) -> Indexer | None:
    """The indexer of a layer that chooses; its keys stand with the entries, in compressing layers only."""
    if layer not in (_listed(config, INDEX_SOURCES) or []):
        return None
    return indexer(config, 0, 1).model_copy(update={"owned": compresses})


def _listed(config: Config, names: tuple[str, ...]) -> list[int] | None:
    """Numbers of layers, from zero."""
    for name in names:
        found = config.items(name)
        if found is None:
            continue
        if any(type(item) is not int for item in found):
            raise config.error("expected numbers of layers", name)
        return found
    return None
