"""Sparse-attention indexers: which layers keep keys of their own, and of which size."""

from __future__ import annotations

from kvplan.specs.attention import Indexer
from kvplan.specs.huggingface.config import Config


def indexer(config: Config, layer: int, layers: int) -> Indexer:
    return Indexer.model_construct(
        heads=config.count("index_n_heads"),
        head_dim=config.count("index_head_dim"),
        topk=config.optional("index_topk"),
        owned=_owns_indexer(config, layer, layers),
        pool=config.integer("index_kpool", 16 if config.model_type.startswith("glm5_next") else 1),
        gated=config.model_type.startswith("glm5_next") or config.has("index_kpool"),
        wide=config.model_type.startswith("dots3_note"),
    )


def _owns_indexer(config: Config, layer: int, layers: int) -> bool:
    """GLM-5.2 lets some layers re-use the selection of an earlier one: they keep no index keys."""
    types = config.per_layer("indexer_types", layers) if config.has("indexer_types") else None
    if types is not None:
        if types[layer] not in ("full", "shared"):
            raise config.error(f"unknown kind of indexer {types[layer]!r}", "indexer_types")
        return bool(types[layer] == "full")
    pattern = config.get("index_topk_pattern")
    if isinstance(pattern, (str, list)) and len(pattern) >= layers:
        return str(pattern[layer])[:1].upper() == "F"
    frequency = config.optional("index_topk_freq")
    if frequency:
        offset = config.integer("index_skip_topk_offset", 2, least=0)
        return bool(max(layer - offset + 1, 0) % frequency == 0)
    return True


def _chosen_blocks(source: Config) -> int | None:
    """Tokens of the blocks that are attended (MiniMax-M3); None where the file does not say."""
    blocks, size = source.optional("sparse_topk_blocks"), source.optional("sparse_block_size")
    return None if blocks is None or size is None else blocks * size


def sparse_regions(config: Config) -> Config | None:
    """Step 5's section: one key for every region of tokens, and the values and gates of an open region."""
    nested = config.sub("sparse_config")
    if nested is None:
        return None
    told = any(nested.has(key) for key in ("region_block_size", "proxy_dim"))
    return nested if told or config.model_type.startswith("step5") else None


def sparse_indexer(config: Config, *, first: bool) -> Indexer | None:
    """Sparse attention over ordinary heads: an indexer of its own dimensions (MiniMax-M3, Qwen4).

    Args:
        first: on the lowest layer that has one.
    """
    regions = sparse_regions(config)
    if regions is not None:
        return Indexer.model_construct(
            heads=regions.integer("sparse_indexer_num_heads", 16),
            head_dim=regions.integer("proxy_dim", 256),
            key_heads=regions.integer("sparse_indexer_num_k_heads", 1),
            topk=regions.integer("topk", 512),
            pool=regions.integer("region_block_size", 8),
            gated=True,
            scale_group=0,
        )
    nested = config.sub("sparse_attention_config")
    source = nested if nested is not None else config
    for heads, dim, keys in (
        ("sparse_num_index_heads", "sparse_index_dim", "sparse_num_index_key_heads"),
        ("indexer_n_heads", "indexer_head_dim", "indexer_kv_heads"),
        ("index_n_heads", "index_head_dim", "index_kv_heads"),
    ):
        if source.has(heads) and source.has(dim):
            return Indexer.model_construct(
                heads=source.count(heads),
                head_dim=source.count(dim),
                key_heads=source.integer(keys, 1),
                topk=source.optional("index_topk") or _chosen_blocks(source),
                scaled=False,
                pool=source.integer("indexer_compress_ratio", 1),
                positions=first and config.model_type.startswith("qwen4"),
            )
    name = config.architecture or config.model_type
    raise config.error(
        f"architecture {name!r} has sparse attention but does not give its indexer's size", "layer_types"
    )
