"""A layer's feed-forward part: dense, a mixture of experts, or none."""

from __future__ import annotations

from kvplan.specs.huggingface import families
from kvplan.specs.huggingface.config import Config, has_biases
from kvplan.specs.huggingface.widths import dense_width, has_experts
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
        return _single(config, layer)
    nested = config.sub("ffn_config")
    if nested is not None and has_experts(nested):  # DBRX
        return experts(nested)
    nested = config.sub("moe")
    if nested is not None and has_experts(nested):  # Mistral's params.json: the experts beside the width
        config = Config({**config.data, **nested.data}, config.top, config.path, config.prefix)
    if config.model_type.startswith(families.TWO_ATTENTIONS):
        beside = dense(config, layer)
        return beside if layer % 2 else experts(config).model_copy(update={"dense": beside})
    if not has_experts(config) or not _is_sparse(config, layer, layers):
        return dense(config, layer)
    return experts(config)


def is_fairseq(config: Config) -> bool:
    """Whether feed-forward layers are fairseq's, which its descendants (BART, OPT, NLLB) call ``ffn_dim``."""
    named = config.spelt("intermediate_size") in ("ffn_dim", "decoder_ffn_dim")
    return named and config.model_type not in families.WIDTH_OF_BOTH


def is_gated(config: Config) -> bool:
    """Two projections in or one."""
    if config.has("is_gated_act"):
        return config.flag("is_gated_act")
    if config.has("feed_forward_proj"):
        return str(config.get("feed_forward_proj")).startswith("gated")
    if config.model_type in families.GATED:
        return True
    if config.spelt("intermediate_size") == "inner_hidden_size":  # ChatGLM-6B, unlike its successors
        return False
    if is_fairseq(config):
        return False
    activation = config.get("hidden_act") or config.get("mlp_hidden_act") or config.get("activation")
    return not (str(activation) in families.UNGATED_ACTIVATIONS or config.model_type in families.UNGATED)


def dense(config: Config, layer: int = 0) -> DenseMlp | None:
    """A dense feed-forward layer."""
    gated = is_gated(config)
    width = dense_width(config, layer, gated=gated)
    if width is None:
        return None
    return DenseMlp.model_construct(
        intermediate_size=width,
        gated=gated,
        bias=has_biases(config, families.MLP_BIAS, "mlp_bias"),
    )


def experts(config: Config, *, width: int | None = None) -> MoeMlp:
    """Routed and shared experts.

    Args:
        width: of one routed expert, where it is not that of the decoder's.
    """
    number = config.uniform("num_experts") or config.count("num_experts")
    width = width or _first(config, "moe_intermediate_size") or config.count("intermediate_size")
    shared = config.optional("shared_expert_intermediate_size", least=0)
    copies = config.uniform("num_shared_experts", least=0) or 0
    if shared is None:
        shared = width * copies
        if config.model_type.startswith("llama4"):
            shared = width
    elif copies > 1 and config.has("moe_shared_expert_intermediate_size"):
        shared *= copies
    chosen = config.uniform("num_experts_per_tok") or 1
    beside = dense(config) if config.model_type.startswith("gemma4") or config.flag("residual_moe") else None
    if config.model_type == "arctic" and config.flag("use_residual", True):
        beside = DenseMlp.model_construct(intermediate_size=config.count("hidden_size"), gated=True)
    sets = config.optional("num_blocks") if config.model_type.startswith("interns2_mobius") else None
    return MoeMlp.model_construct(
        experts=number,
        experts_per_token=min(chosen, number),
        intermediate_size=width,
        shared_intermediate_size=shared,
        shared_gate=config.model_type.startswith(("qwen2_moe", "qwen3_next", "qwen3_5", "interns2")),
        gated=is_gated(config),
        bias=config.model_type == "gpt_oss",
        latent_size=_expert_width(config),
        dense=beside,
        layers_per_set=-(-config.count("num_hidden_layers") // sets) if sets else 1,
    )


def _first(config: Config, key: str, *, least: int = 1, defaults: bool = True) -> int | None:
    """A whole number, or that for texts where ERNIE-VL lists what holds for texts and for images."""
    value = config.get(key, defaults=defaults)
    if isinstance(value, list) and len(value) == 2:
        return Config({key: value[0]}, {}, config.path, config.prefix).optional(key, least=least)
    if key == "moe_intermediate_size":
        return config.uniform(key, least=least)
    return config.optional(key, least=least, defaults=defaults)


def _expert_width(config: Config) -> int | None:
    """The width routed experts work in, where it is not the hidden size."""
    keys = ("moe_latent_size", "moe_hidden_size", "routed_expert_hidden_size")
    width = next((found for key in keys if (found := config.optional(key))), None)
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
    enumerated = config.get("moe_layers_enum") or config.get("moe_layer_list")
    if isinstance(enumerated, list):
        chosen = enumerated
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
    wanted = config.optional("num_sparse_decoder_layers", least=0)
    if wanted is not None:
        return layer in spread(layers, wanted)
    step, last = _first(config, "moe_layer_interval"), _first(config, "moe_layer_end_index", least=-1)
    if (layer + 1) % (step or 1) or (last is not None and 0 <= last < layer):  # ERNIE; -1 is the last layer
        return False
    period = config.integer("expert_layer_period", 1)
    if period > 1:
        return bool(layer % period == config.integer("expert_layer_offset", 0, least=0))
    return True


def spread(layers: int, wanted: int) -> range:
    """Switch Transformers: so many layers with experts, as evenly apart as whole steps allow."""
    step = layers // wanted if wanted else layers
    return range(0 if step == 1 else 1, layers, step) if step and wanted else range(0)


def _dense_prefix(config: Config) -> int:
    """Layers at the bottom without experts."""
    keys = (  # a file may say it more than once
        "first_k_dense_replace",
        "num_dense_layers",
        "moe_layer_start_index",
        "n_dense_first_layers",
        "start_layer",
    )
    config.used.update(keys)
    for defaults in (False, True):
        for key in keys:
            value = _first(config, key, least=0, defaults=defaults)
            if value is not None:
                return value
    return 0


def _single(config: Config, layer: int) -> Mlp | None:
    """Hybrids that alternate mixers and feed-forward layers."""
    pattern = config.get("hybrid_override_pattern")
    listed = config.get("layer_types")
    what = str(config.get("block_type") or "")
    if isinstance(pattern, str) and layer < len(pattern):
        what = {"-": "mlp", "E": "moe"}.get(pattern[layer], "")
    elif isinstance(listed, list) and layer < len(listed):
        what = str(listed[layer])
    if what == "moe":
        return experts(config)
    return dense(config, layer) if what == "mlp" else None
