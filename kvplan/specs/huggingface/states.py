"""A layer's constant state from the fields that describe it: which fields exist says which kind it is."""

from __future__ import annotations

from kvplan.specs.huggingface import families
from kvplan.specs.huggingface.config import Config
from kvplan.specs.huggingface.heads import head_dim, kv_heads, query_heads
from kvplan.specs.state import (
    ConvolvedAttentionState,
    GatedDeltaNetState,
    KimiDeltaState,
    LinearAttentionState,
    Mamba2State,
    MambaState,
    MatrixMemoryState,
    RecurrentState,
    RwkvState,
    ShortConvState,
    State,
    StateDtype,
    WkvState,
)

RWKV7_RANKS = ("decay_low_rank_dim", "gate_low_rank_dim", "a_low_rank_dim", "v_low_rank_dim")
LIGHTNING_HEADS = ("lightning_nkv", "lightning_nh")

DTYPES: dict[str, StateDtype] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def state(config: Config, kind: str) -> State | None:
    """The state of a layer of kind ``kind``; ``None`` where it has none.

    Raises:
        SpecError: the layer has a state but the fields describe none that is known.
    """
    if kind == "conv":
        channels = config.optional("conv_dim") or config.count("hidden_size")
        return ShortConvState.model_construct(channels=channels, conv_kernel=config.count("conv_L_cache"))
    if kind in ("hybrid", "hybrid_sliding") and config.optional("cca_time0") is not None:
        return _convolved(config)
    if kind in ("hybrid", "hybrid_sliding") and config.model_type.startswith("inkling"):
        return _around(config, kind)
    if kind not in ("linear", "hybrid", "hybrid_sliding"):
        return None
    for reader in (_delta, _kimi, _mamba2, _mamba, _lightning, _griffin, _mlstm, _rwkv):
        found = reader(config)
        if found is not None:
            return found
    name = config.architecture or config.model_type
    raise config.error(
        f"architecture {name!r} has layers with a constant state, but none that kvplan knows",
        "layer_types",
        hint="known: gated delta net, Kimi delta attention, Mamba 1 and 2, lightning attention, RG-LRU, "
        "RWKV, xLSTM",
    )


def recurrent_dtype(config: Config) -> StateDtype | None:
    """What the configuration says about the dtype of the recurrent part."""
    for key in ("mamba_ssm_cache_dtype", "mamba_ssm_dtype", "ssm_cache_dtype"):
        value = config.get(key)
        if value is not None and _is_read(config, key):
            if str(value) not in DTYPES:
                raise config.error(f"unknown dtype {value!r}", key)
            return DTYPES[str(value)]
    silent = config.model_type in families.FP32_STATE and _is_read(config, "mamba_ssm_cache_dtype")
    return "fp32" if silent else None


def _is_read(config: Config, key: str) -> bool:
    """Whether vLLM's class for the whole model looks at a field that its decoder's configuration has."""
    return not config.outermost or config.outermost.startswith(families.STATE_DTYPE_READ.get(key, ("",)))


def _delta(config: Config) -> State | None:
    if config.model_type == "olmo_hybrid":
        return _implied_delta(config)
    jet = jet_section(config, "jet")
    if jet is not None:
        return _jet(config, jet)
    if config.optional("linear_num_value_heads") is None or config.model_type in families.KIMI_DELTA:
        return None
    return GatedDeltaNetState.model_construct(
        key_heads=config.count("linear_num_key_heads"),
        value_heads=config.count("linear_num_value_heads"),
        key_head_dim=config.count("linear_key_head_dim"),
        value_head_dim=config.count("linear_value_head_dim"),
        conv_kernel=config.count("linear_conv_kernel_dim"),
        recurrent_dtype=recurrent_dtype(config),
    )


def jet_section(config: Config, kind: str) -> Config | None:
    """What Jet-Nemotron says of its layers of a kind (``jet``, ``swa``); ``None`` for other models."""
    nested = config.sub("efficient_attention_config")
    return nested.sub(kind) if nested is not None else None


def _jet(config: Config, jet: Config) -> State:
    """A gated delta net, each value head under a key head of its own and ``expand_v`` times as wide.

    Only values pass the convolution; engines give q and k their room in front of it all the same.
    """
    heads, dim = jet.count("num_heads"), jet.count("head_dim")
    widened = jet.number("expand_v")
    return GatedDeltaNetState.model_construct(
        key_heads=heads,
        value_heads=heads,
        key_head_dim=dim,
        value_head_dim=int(dim * (1 if widened is None else widened)),
        conv_kernel=jet.count("conv_size"),
        recurrent_dtype=recurrent_dtype(config),
    )


def _implied_delta(config: Config) -> State:
    """OLMo Hybrid, where unsaid: attention's heads, keys of three quarters of the width, values of twice."""
    keys = config.optional("linear_num_key_heads") or query_heads(config)
    dim = config.optional("linear_key_head_dim") or 3 * config.count("hidden_size") // (4 * keys)
    return GatedDeltaNetState.model_construct(
        key_heads=keys,
        value_heads=config.optional("linear_num_value_heads") or query_heads(config),
        key_head_dim=dim,
        value_head_dim=config.optional("linear_value_head_dim") or 2 * dim,
        conv_kernel=config.count("linear_conv_kernel_dim"),
        negative_eigenvalues=config.flag("linear_allow_neg_eigval", True),
        recurrent_dtype=recurrent_dtype(config),
    )


def _kimi(config: Config) -> State | None:
    if config.architecture.startswith(families.LIGHTNING_ARCHITECTURES):
        return None
    nested = config.sub("linear_attn_config")
    if nested is not None:
        return KimiDeltaState.model_construct(
            heads=nested.count("num_attention_heads", defaults=False),
            head_dim=nested.count("head_dim", defaults=False),
            conv_kernel=nested.integer("short_conv_kernel_size", 4, defaults=False),
            bounded_gate=nested.get("gate_lower_bound", defaults=False) is not None,
            full_rank_gates=1 if nested.flag("use_full_rank_gate") else 0,
            recurrent_dtype=recurrent_dtype(config),
        )
    if config.model_type not in families.KIMI_DELTA and not config.has("kda_lower_bound"):
        return None
    kernel = next(
        (
            size
            for defaults in (False, True)  # what the file says, under either name, before what the class says
            for key in ("short_conv_kernel_size", "linear_conv_kernel_dim")
            if (size := config.optional(key, defaults=defaults)) is not None
        ),
        4,
    )
    bound = config.get("kda_lower_bound", config.get("linear_lower_bound"))
    return KimiDeltaState.model_construct(
        heads=_first(config, "linear_num_heads", "linear_num_key_heads") or query_heads(config),
        head_dim=_first(config, "linear_head_dim", "linear_key_head_dim")
        or head_dim(config, query_heads(config)),
        conv_kernel=kernel,
        bounded_gate=bound is not None,
        full_rank_gates=2 if config.flag("no_kda_lora", config.model_type == "bailing_hybrid") else 0,
        recurrent_dtype=recurrent_dtype(config),
    )


def _first(config: Config, *keys: str) -> int | None:
    for key in keys:
        if config.get(key) == "auto":
            continue
        value = config.optional(key)
        if value is not None:
            return value
    return None


def _mamba2(config: Config) -> State | None:
    heads = _first(config, "mamba_num_heads", "mamba_n_heads")
    dim = _first(config, "mamba_head_dim", "mamba_d_head", "mamba_headdim")
    size = _first(config, "ssm_state_size", "mamba_d_state", "state_size")
    hidden = config.count("hidden_size")
    expand = _first(config, "mamba_expand", "expand") or 2
    if heads is not None and dim is None and config.spelt("head_dim") == "hidden_size_per_head":
        dim = config.count("head_dim")  # PLaMo 2 has one for attention and state
    if config.model_type in ("mamba2", "mamba2_hybrid"):
        dim = config.count("head_dim")
        heads = config.optional("num_attention_heads") or hidden * expand // dim
    if config.model_type == "zamba2":
        heads = config.count("n_mamba_heads")
        dim = dim or hidden * expand // heads
    raw = config.get("mamba_d_head")
    if heads is not None and dim is None and (raw == "auto" or raw is None):
        inner = config.optional("mamba_d_ssm") or hidden * expand
        dim = inner // heads if raw == "auto" else None
    if heads is None or dim is None or size is None:
        return None
    groups, rank = _first(config, "mamba_n_groups", "mamba_ngroups", "n_groups") or 1, None
    if config.model_type.startswith("plamo2"):
        groups, rank = 0, max(64, hidden // 16)
    return Mamba2State.model_construct(
        dt_rank=rank,
        heads=heads,
        head_dim=dim,
        groups=groups,
        state_size=size,
        conv_kernel=_first(config, "conv_kernel", "mamba_d_conv", "mamba_conv_kernel") or 4,
        chunk_size=_first(config, "mamba_chunk_size", "chunk_size"),
        recurrent_dtype=recurrent_dtype(config),
    )


def _mamba(config: Config) -> State | None:
    size = _first(config, "mamba_d_state", "state_size", "ssm_state_size")
    if size is None:
        return None
    hidden = config.count("hidden_size")
    expand = _first(config, "mamba_expand", "expand") or 2
    inner = hidden * expand
    if config.model_type in ("mamba", "falcon_mamba"):
        inner = config.optional("intermediate_size") or inner
    return MambaState.model_construct(
        inner_size=inner,
        state_size=size,
        conv_kernel=_first(config, "mamba_d_conv", "conv_kernel") or 4,
        dt_rank=_first(config, "mamba_dt_rank", "time_step_rank") or -(-hidden // 16),
        heads=config.integer("n_mamba_heads", 1),
        recurrent_dtype=recurrent_dtype(config),
    )


def _lightning(config: Config) -> State | None:
    named = config.architecture.startswith(families.LIGHTNING_ARCHITECTURES)
    own = any(config.has(key) for key in LIGHTNING_HEADS)
    if config.model_type not in families.LIGHTNING and not named and not own:
        return None
    # Every key head has a state; engines refuse fewer of them than query heads (SGLang, MiniCPM-SALA).
    heads = next((found for key in LIGHTNING_HEADS if (found := config.optional(key))), query_heads(config))
    dim = config.optional("lightning_head_dim") or head_dim(config, query_heads(config))
    return LinearAttentionState.model_construct(
        heads=heads, key_head_dim=dim, value_head_dim=dim, recurrent_dtype=recurrent_dtype(config)
    )


def _griffin(config: Config) -> State | None:
    if config.model_type != "recurrent_gemma" and not config.has("lru_width"):
        return None
    return RecurrentState.model_construct(
        inner_size=config.optional("lru_width") or config.count("hidden_size"),
        conv_kernel=config.integer("conv1d_width", 4),
        heads=query_heads(config),
    )


def _mlstm(config: Config) -> State | None:
    """xLSTM; the widths are multiples of the hidden size, rounded up to 64 (``xLSTMConfig.qk_dim``)."""
    if config.model_type != "xlstm":
        return None
    heads = query_heads(config)
    return MatrixMemoryState.model_construct(
        heads=heads,
        key_head_dim=_scaled(config, "qk_dim_factor", 0.5) // heads,
        value_head_dim=_scaled(config, "v_dim_factor", 1.0) // heads,
    )


def _scaled(config: Config, key: str, default: float) -> int:
    exact = config.count("hidden_size") * (config.number(key) or default)
    return int(-(-exact // 64) * 64)


def _rwkv(config: Config) -> State | None:
    if config.model_type == "rwkv":
        hidden = config.count("hidden_size")
        return WkvState.model_construct(
            hidden_size=hidden, inner_size=config.optional("attention_hidden_size") or hidden
        )
    if config.model_type in families.RWKV:
        if config.get("attn"):
            raise config.error("layers of attention among RWKV's are not understood", "attn")
        hidden = config.count("hidden_size")
        dim = config.integer("head_dim", 64)
        return RwkvState.model_construct(
            heads=(config.optional("attention_hidden_size") or hidden) // dim,
            head_dim=dim,
            hidden_size=hidden,
            low_rank=_mixer_ranks(config, hidden),
            channel_gate=config.model_type in ("rwkv5", "rwkv6"),
        )
    return None


def _mixer_ranks(config: Config, hidden: int) -> int:
    """RWKV-7 says them; RWKV-6 has five mixers of 32 and a decay of 64, twice that in models of 4,096."""
    if config.model_type == "rwkv6":
        return (5 * 32 + 64) * (2 if hidden == 4096 else 1)
    return sum(config.integer(key, 0, least=0) for key in RWKV7_RANKS)


def _around(config: Config, kind: str) -> State:
    """Inkling: short convolutions, kept in fp32, of K, V and of the outputs of attention and experts."""
    sliding = kind == "hybrid_sliding"
    heads = (config.optional("swa_num_key_value_heads") if sliding else None) or kv_heads(
        config, query_heads(config)
    )
    dim = (config.optional("swa_head_dim") if sliding else None) or head_dim(config, query_heads(config))
    return ShortConvState.model_construct(
        channels=2 * heads * dim + 2 * config.count("hidden_size"),
        conv_kernel=config.integer("conv_kernel_size", config.integer("sconv_kernel_size", 4)),
        paged_heads=heads,
        recurrent_dtype="fp32",
    )


def _convolved(config: Config) -> State:
    """Zaya: q and k pass two short convolutions; half of V is taken from the previous token."""
    heads = query_heads(config)
    dim = head_dim(config, heads)
    groups = kv_heads(config, heads)
    tail = config.count("cca_time0") - 1 + config.count("cca_time1") - 1
    return ConvolvedAttentionState.model_construct(
        conv_channels=(heads + groups) * dim, conv_tail=tail, shifted_values=groups * dim // 2
    )
