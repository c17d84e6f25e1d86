"""How wide a dense feed-forward layer is: by its many names, a list, a multiplier, or what is left unsaid."""

from __future__ import annotations

from kvplan.specs.huggingface import families
from kvplan.specs.huggingface.config import Config

KEYS = ("intermediate_size_mlp", "dense_intermediate_size", "intermediate_size")
RATIOS = ("expansion_ratio", "ffn_ratio", "hidden_ratio")


def has_experts(config: Config) -> bool:
    """Whether any layer may have routed experts."""
    if config.get("enable_moe_block") is False or config.get("is_moe") is False:
        return False
    value = config.get("num_experts")
    if isinstance(value, list):
        return True
    return isinstance(value, int) and not isinstance(value, bool) and value > 1


def dense_width(config: Config, layer: int, *, gated: bool) -> int | None:
    """Columns of the up-projection of layer ``layer``; ``None`` where nothing says.

    Raises:
        SpecError: a width that is no whole number.
    """
    key = next((key for key in KEYS if config.get(key) is not None), KEYS[-1])
    value = config.get(key)
    if isinstance(value, list):
        value = value[layer] if layer < len(value) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise config.error("expected a whole number", key)
    width = value or None
    if width is not None and config.flag("block_auto_adjust_ff_dim"):
        width = _adjusted(config, width)
    if width is None:
        width = _multiplied(config, layer) or _projected(config) or _implied(config)
    if width is None:
        return None
    if gated and config.model_type in families.WIDTH_OF_BOTH:
        width //= 2
    if config.flag("use_double_wide_mlp") and _is_sharing(config, layer):
        width *= 2
    return width


def _adjusted(config: Config, width: int) -> int:
    """LFM2 gives the width of an ungated layer: two thirds of it, rounded up."""
    factor = config.number("block_ffn_dim_multiplier")
    width = 2 * width // 3
    if factor:
        width = int(factor * width)
    multiple = config.integer("block_multiple_of", 256)
    return int(-(-width // multiple) * multiple)


def _multiplied(config: Config, layer: int) -> int | None:
    """A multiple of the hidden size, one for all layers or one for each (OpenELM), to a multiple of 256.

    Meta's params.json gives the multiple of two thirds of four times the hidden size, rounded up.
    """
    hidden = config.count("hidden_size")
    if config.has("multiple_of"):
        multiple = config.count("multiple_of")
        width = int((config.number("ffn_dim_multiplier") or 1) * (8 * hidden // 3))
        return -(-width // multiple) * multiple
    factor = config.get("ffn_multipliers")
    if isinstance(factor, list):
        factor = (config.per_layer("ffn_multipliers", config.count("num_hidden_layers")) or [])[layer]
        if factor is None:
            raise config.error("expected a number for every layer", "ffn_multipliers")
    if factor is None:
        return None
    one = Config({"ffn_multipliers": factor}, {}, config.path, config.prefix)
    exact = (one.number("ffn_multipliers") or 0) * hidden
    divisor = config.integer("ffn_dim_divisor", 256)
    width = max(int(exact + divisor / 2) // divisor * divisor, divisor)
    return int(width + divisor if width < 0.9 * exact else width)


def _projected(config: Config) -> int | None:
    """xLSTM: a multiple of the hidden size, rounded up (``xLSTMFeedForward``)."""
    factor = config.number("ffn_proj_factor")
    if factor is None:
        return None
    multiple = config.integer("ffn_round_up_to_multiple_of", 64)
    return int(-(-config.count("hidden_size") * factor // multiple) * multiple)


def _implied(config: Config) -> int | None:
    """Older architectures leave the width unsaid: a ratio to the hidden size, or four times."""
    if has_experts(config) and config.has("moe_intermediate_size"):
        return None
    keys = (*RATIOS, "mlp_ratio") if config.model_type in families.WIDTH_OF_BOTH else RATIOS
    ratio = next((found for key in keys if (found := config.number(key))), None)
    if ratio:
        return int(config.count("hidden_size") * ratio)
    if config.model_type in ("rwkv5", "rwkv6"):
        return int(config.count("hidden_size") * 3.5) // 32 * 32
    if config.model_type in families.UNGATED:
        return 4 * config.count("hidden_size")
    return None


def _is_sharing(config: Config, layer: int) -> bool:
    layers = config.integer("num_hidden_layers", 0, least=0)
    return bool(layer >= layers - config.integer("num_kv_shared_layers", 0, least=0))
