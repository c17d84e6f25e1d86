"""How many query and KV heads a layer has, and how wide they are, by whichever field says so."""

from __future__ import annotations

from kvplan.errors import SpecError
from kvplan.specs.huggingface import families
from kvplan.specs.huggingface.config import Config


def query_heads(config: Config, layer: int = 0) -> int:
    """Query heads of a layer; a list where layers differ."""
    listed = config.items("num_attention_heads_per_layer")
    if listed is not None and layer < len(listed):
        return whole(config, "num_attention_heads_per_layer", listed[layer])
    value = config.get("num_attention_heads")
    if isinstance(value, list):
        own = config.per_layer("num_attention_heads", max(config.count("num_hidden_layers"), 1))
        assert own is not None
        return whole(config, "num_attention_heads", own[layer % len(own)])
    return config.count("num_attention_heads")


def whole(config: Config, key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise config.error(f"expected whole numbers of at least 1, found {value!r}", key)
    return value


def head_dim(config: Config, heads: int) -> int:
    """``head_dim``, else hidden size / heads."""
    own = config.optional("head_dim")
    if own is not None:
        return own
    parts = [config.optional(key) for key in ("qk_nope_dim", "qk_rope_dim")]
    if None not in parts:  # openPangu: without and with rotary positions, side by side
        return sum(part or 0 for part in parts)
    # Zamba's attention works on the block's input and the embeddings side by side.
    sides = 2 if config.model_type in ("zamba", "zamba2") else 1
    hidden = config.optional("attention_hidden_size") or sides * config.count("hidden_size")
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
    if model_type in families.FALCON:
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
        return whole(config, key, listed[layer] if layer < len(listed) else None)
    nested = config.sub("attn_config")
    if nested is not None:
        if nested.get("attn_type") == "multiquery_attention":
            return 1
        found = nested.optional("num_key_value_heads")
        if found is not None:
            return found
    value = config.get("num_key_value_heads")
    if isinstance(value, list):
        return whole(config, "num_key_value_heads", value[layer] if layer < len(value) else None)
    if value is not None:
        return config.count("num_key_value_heads")
    plain = model_type in families.PLAIN_MHA or is_of_old_lineage(config)
    if plain or config.spelt("num_key_value_heads") in config.data:
        return heads  # null means one per query head in every class that has the field
    if knows_kv_heads(config):
        return heads
    name = config.architecture or model_type or "without architectures and model_type"
    raise SpecError(
        f"architecture {name!r} does not say how many KV heads it has (num_key_value_heads)",
        where=f"{config.path}  {config.prefix}num_key_value_heads",
        hint="kvplan does not assume one per query head; write a spec instead (kvplan models validate)",
    )


def is_of_old_lineage(config: Config) -> bool:
    """Whether fields are named as in fairseq or T5, whose descendants have K and V for every query head."""
    return config.spelt("num_attention_heads") == "decoder_attention_heads" or "d_kv" in config.data


def knows_kv_heads(config: Config) -> bool:
    """Whether the configuration class has ``num_key_value_heads``, where null means all heads."""
    return "num_key_value_heads" in (config.defaults or {}) or (config.model_type in families.STANDARD)
