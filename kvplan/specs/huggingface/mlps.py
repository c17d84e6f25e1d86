"""A layer's feed-forward part: dense, a mixture of experts, or none."""

from __future__ import annotations

from kvplan.specs.huggingface import families
from kvplan.specs.huggingface.config import Config, has_biases
from kvplan.specs.mlp import DenseMlp, Mlp, MoeMlp

SINGLE_PART = frozenset({"nemotron_h", "nemotron-h", "nemotron_h_puzzle", "dory"})
"""Every layer is one thing only: a mixer, an MLP or experts."""


def mlp(config: Config, layer: int, layers: int) -> Mlp | None:
    """The feed-forward part of layer ``layer``.

    Raises:
        SpecError: sizes that are missing or contradictory.
    """
    if config.model_type in ("mamba", "mamba2", "falcon_mamba"):
        return None
    if config.model_type in SINGLE_PART:
        return _single(config, layer, layers)
    nested = config.sub("ffn_config")
    if nested is not None and has_experts(nested):  # DBRX
        return experts(nested)
    if config.model_type.startswith(families.TWO_ATTENTIONS):
        beside = dense(config, layer)
        return beside if layer % 2 else experts(config).model_copy(update={"dense": beside})
    if not has_experts(config) or not _is_sparse(config, layer, layers):
        return dense(config, layer)
    return experts(config)


def has_experts(config: Config) -> bool:
    """Whether any layer may have routed experts."""
    if config.get("enable_moe_block") is False or config.get("is_moe") is False:
        return False
    value = config.get("num_experts")
    if isinstance(value, list):
        return True
    return isinstance(value, int) and not isinstance(value, bool) and value > 1


def is_gated(config: Config) -> bool:
    """Two projections in or one."""
    if config.has("is_gated_act"):
        return config.flag("is_gated_act")
    if config.has("feed_forward_proj"):
        return str(config.get("feed_forward_proj")).startswith("gated")
    if config.model_type in families.GATED:
        return True
    activation = config.get("hidden_act") or config.get("mlp_hidden_act") or config.get("activation")
    return not (str(activation) in families.UNGATED_ACTIVATIONS or config.model_type in families.UNGATED)


def dense(config: Config, layer: int = 0) -> DenseMlp | None:
    """A dense feed-forward layer."""
    value = None
    for key in ("intermediate_size_mlp", "dense_intermediate_size", "intermediate_size"):
        value = config.get(key)
        if value is not None:
            break
    if isinstance(value, list):
        value = value[layer] if layer < len(value) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise config.error("expected a whole number", key)
    width = value or None
    if width is not None and config.flag("block_auto_adjust_ff_dim"):
        width = _adjusted_width(config, width)
    if width is None:
        width = _implied_width(config)
    if width is None:
        return None
    if config.flag("use_double_wide_mlp") and _is_sharing(config, layer):
        width *= 2
    return DenseMlp.model_construct(
        intermediate_size=width,
        gated=is_gated(config),
        bias=has_biases(config, families.MLP_BIAS, "mlp_bias"),
    )


def _adjusted_width(config: Config, width: int) -> int:
    """LFM2 gives the width of an ungated layer: two thirds of it, rounded up."""
    factor = config.get("block_ffn_dim_multiplier")
    width = 2 * width // 3
    if isinstance(factor, (int, float)) and not isinstance(factor, bool) and factor > 0:
        width = int(factor * width)
    multiple = config.integer("block_multiple_of", 256)
    return int(-(-width // multiple) * multiple)


def _is_sharing(config: Config, layer: int) -> bool:
    layers = config.integer("num_hidden_layers", 0, least=0)
    return bool(layer >= layers - config.integer("num_kv_shared_layers", 0, least=0))


def _implied_width(config: Config) -> int | None:
    """Older architectures leave the width unsaid: four times the hidden size."""
    if has_experts(config) and config.has("moe_intermediate_size"):
        return None
    ratio = config.get("expansion_ratio") or config.get("ffn_ratio")
    if isinstance(ratio, (int, float)) and ratio > 0:
        return int(config.count("hidden_size") * ratio)
    if config.model_type in families.UNGATED:
        return 4 * config.count("hidden_size")
    return None


def experts(config: Config) -> MoeMlp:
    """Routed and shared experts."""
    number = config.uniform("num_experts") or config.count("num_experts")
    width = config.uniform("moe_intermediate_size") or config.count("intermediate_size")
    shared = config.optional("shared_expert_intermediate_size", least=0)
    copies = config.uniform("num_shared_experts", least=0) or 0
    if shared is None:
        shared = width * copies
        if config.model_type.startswith("llama4"):
            shared = width
    elif copies > 1 and config.has("moe_shared_expert_intermediate_size"):
        shared *= copies
    chosen = config.uniform("num_experts_per_tok") or 1
    beside = dense(config) if config.model_type.startswith("gemma4") or config.flag("moe_residual") else None
    return MoeMlp.model_construct(
        experts=number,
        experts_per_token=min(chosen, number),
        intermediate_size=width,
        shared_intermediate_size=shared,
        shared_gate=config.model_type.startswith(("qwen2_moe", "qwen3_next", "qwen3_5")),
        gated=is_gated(config),
        bias=config.model_type == "gpt_oss",
        latent_size=_expert_width(config),
        dense=beside,
    )


def _expert_width(config: Config) -> int | None:
    """The width routed experts work in, where it is not the hidden size."""
    width = config.optional("moe_latent_size") or config.optional("moe_hidden_size")
    return width if width != config.count("hidden_size") else None


def _is_sparse(config: Config, layer: int, layers: int) -> bool:
    """Whether this layer has experts: a list, a prefix, a period, or a set of exceptions."""
    types = config.per_layer("mlp_layer_types", layers) if config.has("mlp_layer_types") else None
    if types is not None:
        return bool(types[layer] != "dense")
    frequency = config.get("moe_layer_freq")
    if isinstance(frequency, list):
        listed = config.per_layer("moe_layer_freq", layers) or []
        return bool(listed[layer])
    exceptions = config.items("mlp_only_layers") or []
    if layer in exceptions:
        return False
    chosen = config.items("moe_layers") if isinstance(config.get("moe_layers"), list) else None
    enumerated = config.get("moe_layers_enum")
    if isinstance(enumerated, str) and enumerated:  # Step: "3,4,5"
        chosen = [int(item) for item in enumerated.split(",") if item.strip().isdigit()]
    if chosen:
        return layer in chosen
    if layer < _dense_prefix(config):
        return False
    if isinstance(frequency, int) and frequency > 1:
        return bool(layer % frequency == 0)
    step = config.integer("interleave_moe_layer_step", 0, least=0) or config.integer(
        "decoder_sparse_step", 1, least=0
    )
    if step > 1:
        return bool((layer + 1) % step == 0)
    period = config.integer("expert_layer_period", 1)
    if period > 1:
        return bool(layer % period == config.integer("expert_layer_offset", 0, least=0))
    return True


def _dense_prefix(config: Config) -> int:
    """Layers at the bottom without experts."""
    keys = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index", "n_dense_first_layers")
    for defaults in (False, True):
        for key in keys:
            value = config.integer(key, None, least=0, defaults=defaults)
            if value is not None:
                return int(value)
    return 0


def _single(config: Config, layer: int, layers: int) -> Mlp | None:
    """Hybrids that alternate mixers and feed-forward layers."""
    pattern = config.get("hybrid_override_pattern")
    listed = config.get("layer_types")
    what = ""
    if isinstance(pattern, str) and layer < len(pattern):
        what = {"-": "mlp", "E": "moe"}.get(pattern[layer], "")
    elif isinstance(listed, list) and layer < len(listed):
        what = str(listed[layer])
    if what == "moe":
        return experts(config)
    return dense(config, layer) if what == "mlp" else None
