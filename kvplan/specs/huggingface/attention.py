"""One layer's attention from the fields that describe heads, latents, windows and indexers."""

from __future__ import annotations

from typing import Any

from kvplan.specs.attention import (
    ChunkedAttention,
    CrossAttention,
    FullAttention,
    LatentAttention,
    SelfAttention,
    SharedAttention,
    SlidingAttention,
)
from kvplan.specs.huggingface import families
from kvplan.specs.huggingface.compression import compressed
from kvplan.specs.huggingface.config import Config, has_biases
from kvplan.specs.huggingface.heads import head_dim, kv_heads, query_heads, whole
from kvplan.specs.huggingface.indexers import indexer, sparse_indexer
from kvplan.specs.huggingface.overrides import own_fields
from kvplan.specs.huggingface.states import jet_section
from kvplan.specs.huggingface.windows import window_cycle, window_of_pair


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
        return compressed(config, kind, layer)
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
        summary_stride=_summary_stride(config),
        indexer=sparse_indexer(config, first=first) if kind == "indexed" else None,
        **fields,
    )


def _summary_stride(config: Config) -> int | None:
    """Tokens between two mean keys of sparse attention over blocks (MiniCPM 4.1, MiniCPM-SALA)."""
    nested = config.sub("sparse_config")
    if nested is None or not nested.has("kernel_stride"):
        return None  # sections of that name describe other kinds of sparse attention too
    return nested.count("kernel_stride")


def _window(config: Config, layer: int, layers: int) -> int:
    """The window of a layer: its own where layers differ."""
    for key in ("sliding_windows", "window_sizes"):
        listed = config.per_layer(key, layers) if config.has(key) else None
        if listed is not None:
            own = window_of_pair(config, listed[layer]) if key == "window_sizes" else listed[layer]
            return whole(config, key, own)
    swa = jet_section(config, "swa")
    if swa is not None:
        return swa.count("window_size")
    cycle = window_cycle(config)
    if cycle:
        own = cycle[layer % len(cycle)]
        if own is None:
            raise config.error(f"layer {layer} slides, and this list gives it no window", "sliding_window")
        return whole(config, "sliding_window", own)
    return config.count("sliding_window")


def is_latent(config: Config) -> bool:
    """Whether attention is multi-head latent attention."""
    if config.get("use_mla") is False:
        return False
    return config.optional("kv_lora_rank", least=0) not in (None, 0)


def _heads(config: Config, reach: str, layer: int, layers: int) -> dict[str, Any]:
    """Heads and dimensions, with the overrides of single layers, global layers and window layers."""
    heads = query_heads(config, layer)
    groups = kv_heads(config, heads, layer)
    dim = head_dim(config, heads)
    # Without latents the dimensions of their heads mean nothing (DeepSeek-OCR).
    value_dim = None if config.get("use_mla") is False else config.optional("v_head_dim", least=0) or None
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
    fields = own_fields(config, layer, layers)
    own = Config(fields, {}, config.path, f"{config.prefix}per_layer_config[{layer}].")
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
        "qkv_bias": bias or every or config.model_type in families.QKV_BIAS,
        "output_bias": every and config.model_type not in ("qwen2", "qwen2_moe"),
        "qk_norm": _qk_norm(config),
        "output_gate": _has_gate(config),
        "query_rank": config.optional("share_q_dim"),
        "v_projection": not (config.flag("attention_k_eq_v") and reach == "full"),
        "sinks": _has_sinks(config, sliding=reach == "sliding"),
    }


def _has_sinks(config: Config, *, sliding: bool) -> bool:
    """Whether query heads have a learned logit beside those of the keys: GPT-OSS's do, MiMo-V2's and Laguna's
    where a field says so, Granite's that name the kinds of their layers unless one says otherwise.
    """
    if config.model_type.startswith(families.SINKS):
        return True
    if config.model_type in ("granite", "granitemoe"):
        return config.flag("attention_sinks", config.get("layer_types") is not None)
    if not sliding:
        return config.flag("add_full_attention_sink_bias")
    return config.flag("add_swa_attention_sink_bias") or config.flag("swa_attention_sink_enabled")


def _has_gate(config: Config) -> bool:
    """Whether the output of attention is gated, as wide as it is."""
    own = config.flag("attn_output_gate", config.model_type in families.OUTPUT_GATE)
    named = config.get("attention_gate_func") is not None  # K2 Horizon
    return own or named or config.flag("attn_use_output_gate") or config.flag("mla_use_output_gate")


def _qk_norm(config: Config) -> str:
    if config.model_type in families.QK_NORM_FULL:
        return "full"
    if config.model_type == "llama4_text":  # without weights
        return "none"
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
        v_head_dim=_value_dim(config),
        q_lora_rank=config.optional("q_lora_rank", least=0) or None,
        indexer=indexer(config, layer, layers) if dsa else None,
        output_gate=_has_gate(config),
        shared=kind == "shared",
        row_dim=_window_row(config),
        expanded_in=families.EXPANDED_MLA.get(config.model_type, ()),
    )


def _value_dim(config: Config) -> int:
    """How wide values are; where its class leaves that open (MiniCPM 3), the hidden size over the heads."""
    own = config.defaults or {}
    if config.get("v_head_dim") is None and "v_head_dim" in own:
        return int(config.count("hidden_size") // query_heads(config))
    return config.count("v_head_dim")


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


def cross_attention(config: Config, source: str) -> CrossAttention:
    """Attention over an encoder's or an image's tokens: heads of its own, or those of self-attention."""
    own = config.optional("cross_num_attention_heads")
    heads = own or query_heads(config)
    groups = config.optional("cross_num_key_value_heads") or own or kv_heads(config, heads)
    return CrossAttention.model_construct(
        query_heads=heads,
        kv_heads=groups,
        head_dim=config.optional("cross_head_dim") or head_dim(config, heads),
        source="vision" if source == "vision" else "encoder",
        merged=config.model_type.startswith("t5gemma2"),
    )
