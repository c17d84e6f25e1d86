"""One layer's attention from the fields that describe heads, latents, windows and indexers."""

from __future__ import annotations

from typing import Any

from kvplan.errors import SpecError
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
from kvplan.specs.huggingface import families
from kvplan.specs.huggingface.config import Config, has_biases
from kvplan.specs.huggingface.layers import window_of_pair


def attention(
    config: Config, kind: str, layer: int, layers: int, *, first: bool = False
) -> SelfAttention | None:
    """The self-attention of layer ``layer`` of kind ``kind``; ``None`` where it has none.

    Args:
        first: whether no layer below is of this kind.

    Raises:
        SpecError: a field that is missing, impossible or contradictory.
    """
    if kind in ("linear", "conv", "none", "cross"):
        return None
    if kind in ("csa", "hca") or (kind == "sliding" and config.has("compress_ratios")):
        return _compressed(config, kind)
    if is_latent(config) and kind not in ("sliding", "chunked", "hybrid_sliding", "shared_sliding"):
        return _latent(config, kind, layer, layers)
    if kind == "sliding" and is_latent(config) and config.optional("swa_kv_lora_rank"):
        return _sliding_latent(config)
    if is_latent(config) and not config.has("swa_num_key_value_heads"):
        name = config.architecture or config.model_type
        raise config.error(
            f"architecture {name!r} has latent attention with a window: not understood", "layer_types"
        )
    sliding = kind in ("sliding", "hybrid_sliding", "shared_sliding")
    fields = _heads(config, "sliding" if sliding else "full", layer, layers)
    if kind in ("shared", "shared_sliding"):
        window = config.count("sliding_window") if sliding else None
        return SharedAttention.model_construct(
            query_heads=fields["query_heads"],
            kv_heads=fields["kv_heads"],
            head_dim=fields["head_dim"],
            window=window,
            kv_projection=config.model_type.startswith("gemma3n"),
            qk_norm=fields["qk_norm"],
        )
    if sliding:
        return SlidingAttention.model_construct(
            window=_window(config, layer, layers),
            excludes_itself=config.model_type.startswith(families.WINDOW_BEFORE),
            **fields,
        )
    if kind == "chunked":
        return ChunkedAttention.model_construct(chunk=config.count("attention_chunk_size"), **fields)
    return FullAttention.model_construct(
        indexer=_sparse_indexer(config, first=first) if kind == "indexed" else None, **fields
    )


def _window(config: Config, layer: int, layers: int) -> int:
    """The window of a layer: its own where layers differ."""
    for key in ("sliding_windows", "window_sizes"):
        listed = config.per_layer(key, layers) if config.has(key) else None
        if listed is not None:
            own = window_of_pair(config, listed[layer]) if key == "window_sizes" else listed[layer]
            return _whole(config, key, own)
    return config.count("sliding_window")


def is_latent(config: Config) -> bool:
    """Whether attention is multi-head latent attention."""
    if config.get("use_mla") is False:
        return False
    return config.optional("kv_lora_rank", least=0) not in (None, 0)


def query_heads(config: Config, layer: int = 0) -> int:
    """Query heads of a layer; a list where layers differ."""
    listed = config.items("num_attention_heads_per_layer")
    if listed is not None and layer < len(listed):
        return _whole(config, "num_attention_heads_per_layer", listed[layer])
    value = config.get("num_attention_heads")
    if isinstance(value, list):
        own = config.per_layer("num_attention_heads", max(config.count("num_hidden_layers"), 1))
        assert own is not None
        return _whole(config, "num_attention_heads", own[layer % len(own)])
    return config.count("num_attention_heads")


def _whole(config: Config, key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise config.error(f"expected whole numbers of at least 1, found {value!r}", key)
    return value


def head_dim(config: Config, heads: int) -> int:
    """``head_dim``, else hidden size / heads."""
    own = config.optional("head_dim")
    if own is not None:
        return own
    hidden = config.optional("attention_hidden_size") or config.count("hidden_size")
    if config.model_type == "zamba2":
        hidden *= 2  # attention works on the block's input and the embeddings side by side
    if hidden % heads:
        raise config.error(
            f"hidden_size {hidden} is not a multiple of {heads} heads and head_dim is not given",
            "hidden_size",
        )
    return hidden // heads


def kv_heads(config: Config, heads: int, layer: int = 0) -> int:
    """KV heads, by whichever of the historic ways the architecture says it.

    Raises:
        SpecError: nothing says how many: it is never assumed.
    """
    model_type = config.model_type
    if model_type in ("falcon", "RefinedWeb", "RefinedWebModel"):
        if config.flag("new_decoder_architecture") or model_type == "RefinedWeb":
            return config.optional("num_key_value_heads") or heads
        return 1 if config.flag("multi_query", True) else heads
    if model_type == "gpt_bigcode":
        return 1 if config.flag("multi_query", True) else heads
    if config.has("multi_query_attention") or config.has("multi_query_group_num"):
        return config.count("multi_query_group_num") if config.flag("multi_query_attention", True) else heads
    listed = config.items("num_key_value_heads_per_layer")
    if listed is not None:
        key = "num_key_value_heads_per_layer"
        return _whole(config, key, listed[layer] if layer < len(listed) else None)
    nested = config.sub("attn_config")
    if nested is not None:
        if nested.get("attn_type") == "multiquery_attention":
            return 1
        found = nested.optional("num_key_value_heads")
        if found is not None:
            return found
    value = config.get("num_key_value_heads")
    if isinstance(value, list):
        return _whole(config, "num_key_value_heads", value[layer] if layer < len(value) else None)
    if value is not None:
        return config.count("num_key_value_heads")
    if model_type in families.PLAIN_MHA or config.spelt("num_key_value_heads") in config.data:
        return heads  # null means one per query head in every class that has the field
    if knows_kv_heads(config):
        return heads
    name = config.architecture or model_type or "without architectures and model_type"
    raise SpecError(
        f"architecture {name!r} does not say how many KV heads it has (num_key_value_heads)",
        where=f"{config.path}  {config.prefix}num_key_value_heads",
        hint="kvplan does not assume one per query head; write a spec instead (kvplan models validate)",
    )


def knows_kv_heads(config: Config) -> bool:
    """Whether the configuration class has ``num_key_value_heads``, where null means all heads."""
    from kvplan.specs.huggingface.config import class_defaults

    return "num_key_value_heads" in class_defaults().get(config.model_type, {}) or (
        config.model_type in families.STANDARD
    )


def _override(config: Config, layer: int) -> dict[str, Any]:
    """Heterogeneous configurations name single layers and what differs there."""
    table = config.get("per_layer_config", defaults=False)
    if not isinstance(table, dict):
        return {}
    for key in (str(layer), f"{layer:02d}", f"{layer:03d}"):
        if isinstance(table.get(key), dict):
            own: dict[str, Any] = table[key]
            return own
    return {}


def _heads(config: Config, reach: str, layer: int, layers: int) -> dict[str, Any]:
    """Heads and dimensions, with the overrides of single layers, global layers and window layers."""
    heads = query_heads(config, layer)
    groups = kv_heads(config, heads, layer)
    dim = head_dim(config, heads)
    value_dim = config.optional("v_head_dim", least=0) or None
    if reach == "full":
        dim = config.optional("global_head_dim") or dim
        if config.get("attention_k_eq_v") is not False:  # without it Gemma 4 ignores the number
            groups = config.optional("num_global_key_value_heads") or groups
    elif any(
        config.optional(key) is not None
        for key in ("swa_num_key_value_heads", "swa_head_dim", "swa_num_attention_heads")
    ):
        heads = config.optional("swa_num_attention_heads") or heads
        groups = config.optional("swa_num_key_value_heads") or groups
        dim = config.optional("swa_head_dim") or dim
        value_dim = config.optional("swa_v_head_dim") or value_dim
    elif config.model_type == "mimo_v2_flash":
        groups *= 2  # its window layers have twice the KV heads
    if reach == "sliding":
        heads = config.optional("num_sliding_attention_heads") or heads
    other = config.sub("attention_other_setting") if reach == "sliding" else None
    if other is not None:  # Step: window layers have heads of their own
        heads = other.optional("num_attention_heads") or heads
        groups = other.optional("num_attention_groups") or other.optional("num_key_value_heads") or groups
        dim = other.optional("head_dim") or dim
    own = Config(_override(config, layer), {}, config.path, f"{config.prefix}per_layer_config[{layer}].")
    heads = own.optional("num_attention_heads", defaults=False) or heads
    groups = own.optional("num_key_value_heads", defaults=False) or groups
    dim = own.optional("head_dim", defaults=False) or dim
    if heads % groups:
        raise config.error(
            f"{heads} query heads are not a multiple of {groups} KV heads", "num_key_value_heads"
        )
    bias = config.flag("attention_bias") or config.flag("qkv_bias") or config.flag("use_qkv_bias")
    every = has_biases(config, families.ATTENTION_BIAS, "attention_bias")
    return {
        "query_heads": heads,
        "kv_heads": groups,
        "head_dim": dim,
        "v_head_dim": value_dim if value_dim not in (None, dim) else None,
        "qkv_bias": bias or every or config.model_type in ("qwen2", "qwen2_moe", "qwen2_vl", "qwen2_5_vl"),
        "output_bias": every and config.model_type not in ("qwen2", "qwen2_moe"),
        "qk_norm": _qk_norm(config),
        "output_gate": config.flag("attn_output_gate", config.model_type in families.OUTPUT_GATE),
        "v_projection": not (config.flag("attention_k_eq_v") and reach == "full"),
    }


def _qk_norm(config: Config) -> str:
    if config.model_type in families.QK_NORM_FULL:
        return "full"
    normed = config.flag("use_qk_norm") or config.flag("qk_norm") or config.model_type in families.QK_NORM
    return "per_head" if normed else "none"


def _latent(config: Config, kind: str, layer: int, layers: int) -> LatentAttention:
    dsa = kind == "indexed" or bool(config.get("index_topk") and config.get("index_head_dim"))
    nope, rope = config.count("qk_nope_head_dim"), config.integer("qk_rope_head_dim", 0, least=0)
    if not _is_rotary(config, layer, layers):
        nope, rope = nope + rope, 0
    return LatentAttention.model_construct(
        query_heads=query_heads(config, layer),
        kv_lora_rank=config.count("kv_lora_rank"),
        rope_head_dim=rope,
        nope_head_dim=nope,
        v_head_dim=config.count("v_head_dim"),
        q_lora_rank=config.optional("q_lora_rank", least=0) or None,
        indexer=_indexer(config, layer, layers) if dsa else None,
        shared=kind == "shared",
        row_dim=_window_row(config),
        expanded_in=families.EXPANDED_MLA.get(config.model_type, ()),
    )


def _window_row(config: Config) -> int | None:
    """dots3.note: vLLM gives all layers rows as wide as those of the windowed ones."""
    if not config.model_type.startswith("dots3_note"):
        return None
    rope = config.optional("swa_qk_rope_head_dim", least=0)
    rope = config.count("swa_head_dim") - config.count("swa_qk_nope_head_dim") if rope is None else rope
    return config.count("swa_kv_lora_rank") + rope


def _is_rotary(config: Config, layer: int, layers: int) -> bool:
    """Whether a layer has rotary dimensions at all: Mistral Large 4 leaves them out of some."""
    if not config.model_type.startswith("mistral_large4"):
        return True
    listed = config.per_layer("no_rope_layers", layers) if config.has("no_rope_layers") else None
    if listed is not None:
        return bool(listed[layer])
    return bool((layer + 1) % config.integer("no_rope_layer_interval", 4))


def _sliding_latent(config: Config) -> LatentAttention:
    """Latents with a window, of dimensions of their own."""
    nope = config.count("swa_qk_nope_head_dim")
    rope = config.optional("swa_qk_rope_head_dim", least=0)
    return LatentAttention.model_construct(
        query_heads=config.count("swa_num_attention_heads"),
        kv_lora_rank=config.count("swa_kv_lora_rank"),
        rope_head_dim=config.count("swa_head_dim") - nope if rope is None else rope,
        nope_head_dim=nope,
        v_head_dim=config.count("swa_v_head_dim"),
        q_lora_rank=config.optional("swa_q_lora_rank"),
        window=config.count("sliding_window"),
    )


def _indexer(config: Config, layer: int, layers: int) -> Indexer:
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


def _sparse_indexer(config: Config, *, first: bool) -> Indexer | None:
    """Sparse attention over ordinary heads: an indexer of its own dimensions (MiniMax-M3, Qwen4).

    Args:
        first: on the lowest layer that has one.
    """
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
                topk=source.optional("index_topk"),
                scaled=False,
                pool=source.integer("indexer_compress_ratio", 1),
                positions=first and config.model_type.startswith("qwen4"),
            )
    name = config.architecture or config.model_type
    raise config.error(
        f"architecture {name!r} has sparse attention but does not give its indexer's size", "layer_types"
    )


def _compressed(config: Config, kind: str) -> CompressedAttention:
    rates = config.sub("compress_rates")
    ratio = 0
    if kind == "csa":
        ratio = rates.integer("compressed_sparse_attention", 4) if rates else 4
    elif kind == "hca":
        ratio = rates.integer("heavily_compressed_attention", 128) if rates else 128
    rope = config.optional("qk_rope_head_dim") or 64
    return CompressedAttention.model_construct(
        query_heads=query_heads(config),
        head_dim=config.count("head_dim"),
        rope_head_dim=rope,
        window=config.count("sliding_window"),
        ratio=ratio,
        overlap=kind == "csa",
        q_lora_rank=config.count("q_lora_rank"),
        o_lora_rank=config.count("o_lora_rank"),
        o_groups=config.count("o_groups"),
        indexer=_indexer(config, 0, 1) if kind == "csa" else None,
    )


def cross_attention(config: Config, source: str) -> CrossAttention:
    """Attention over an encoder's or an image's tokens, with the heads of self-attention."""
    heads = query_heads(config)
    groups = kv_heads(config, heads)
    return CrossAttention.model_construct(
        query_heads=heads,
        kv_heads=groups,
        head_dim=head_dim(config, heads),
        source="vision" if source == "vision" else "encoder",
    )
