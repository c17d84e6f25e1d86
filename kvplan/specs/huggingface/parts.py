"""The parts beside the decoder stack: encoder, multi-token-prediction layers (``towers``: images, sounds)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvplan.specs.attention import FullAttention
from kvplan.specs.huggingface import families
from kvplan.specs.huggingface.config import Config, has_biases
from kvplan.specs.huggingface.heads import head_dim, query_heads
from kvplan.specs.huggingface.layers import check_layers
from kvplan.specs.huggingface.mlps import experts, is_gated, spread
from kvplan.specs.huggingface.widths import has_experts
from kvplan.specs.mlp import DenseMlp
from kvplan.specs.model import Encoder


def is_encoder_decoder(config: Config) -> bool:
    """Whether the decoder attends to an encoder: its class decides, then the file, then the family."""
    if config.model_type.startswith("musicgen") and _beside(config) is not None:
        return config.model_type == "musicgen_decoder"  # what the melody's encoder gives stands in front
    if config.prefix.endswith("decoder.") and isinstance(config.top.get("encoder"), Mapping):
        # T5Gemma, image-to-text pairs: two configurations side by side. Without cross attention what the
        # encoder gives stands before the text (Nemotron Parse 3.5).
        return config.get("add_cross_attention", defaults=False) is not False
    said = next(
        (part["is_encoder_decoder"] for part in (config.data, config.top) if "is_encoder_decoder" in part),
        None,
    )
    if config.architecture.endswith("ForCausalLM") and said is not True:
        return False  # the decoder alone
    return bool(config.model_type in families.ENCODER_DECODER if said is None else said)


def encoder(config: Config) -> Encoder:
    """The encoder of an encoder-decoder model."""
    own = _beside(config)
    if own is not None:
        inner = own.get("text_config")
        beside = Config(inner if isinstance(inner, Mapping) else own, {}, config.path, "encoder.")
        return _separate(beside) if _says_its_shape(beside) else _untold(config, beside)
    section = config.top.get("encoder_config")
    if isinstance(section, Mapping):  # a tower, counted as one
        return _untold(config, Config(section, {}, config.path, "encoder_config."))
    hidden = config.count("hidden_size")
    heads = config.optional("encoder_attention_heads") or config.optional("encoder_num_attention_heads")
    heads = heads or config.count("num_attention_heads")
    width = config.optional("encoder_ffn_dim") or config.optional("intermediate_size") or 4 * hidden
    layers = config.optional("encoder_layers", least=0)
    for key in ("num_encoder_layers", "encoder_num_hidden_layers"):
        layers = config.optional(key, least=0) if layers is None else layers
    if layers is None:
        # T5: num_layers is the encoder's, num_decoder_layers the decoder's.
        key = "num_layers" if config.data.get("num_layers") is not None else "num_hidden_layers"
        layers = config.integer(key, 0, least=0)
    positions = config.optional("max_source_positions")
    dim = head_dim(config, heads)
    bias = has_biases(config, families.MLP_BIAS, "mlp_bias")
    sparse = _sparse_layers(config, int(layers))
    return Encoder.model_construct(
        layers=layers,
        hidden_size=hidden,
        attention=FullAttention.model_construct(query_heads=heads, kv_heads=heads, head_dim=dim),
        mlp=DenseMlp.model_construct(intermediate_size=width, gated=is_gated(config), bias=bias),
        experts=experts(config, width=width) if sparse else None,
        expert_layers=sparse,
        max_tokens=positions,
        fixed_length=config.model_type in families.FIXED_ENCODER,
    )


def _beside(config: Config) -> Mapping[str, Any] | None:
    """The section of an encoder beside that of the decoder; MusicGen's reads texts."""
    if not config.prefix.endswith("decoder."):
        return None
    found = config.top.get("encoder", config.top.get("text_encoder"))
    return found if isinstance(found, Mapping) else None


def _says_its_shape(config: Config) -> bool:
    keys = ("num_hidden_layers", "num_attention_heads", "hidden_size")
    return all(isinstance(config.get(key, defaults=False), int) for key in keys)  # Swin lists them by stage


def _untold(config: Config, beside: Config) -> Encoder:
    """An encoder whose weights are counted as a tower or not at all: what it hands over is what matters."""
    heads = query_heads(config)
    dim = head_dim(config, heads)
    tokens = _image_tokens(config, beside)
    return Encoder.model_construct(
        layers=0,
        hidden_size=config.count("hidden_size"),
        attention=FullAttention.model_construct(query_heads=heads, kv_heads=heads, head_dim=dim),
        mlp=DenseMlp.model_construct(intermediate_size=config.count("hidden_size")),
        max_tokens=tokens or beside.optional("max_source_positions"),
        fixed_length=tokens is not None,
    )


def _image_tokens(config: Config, beside: Config) -> int | None:
    """Tokens of an image of fixed size: one a patch, or for four in a row, and one for the whole."""
    size = beside.get("image_size") or config.top.get("image_size")
    patch = beside.optional("patch_size")
    sides = [side for side in (size if isinstance(size, list) else [size, size]) if type(side) is int]
    if patch is None or len(sides) != 2 or min(sides) < patch:
        return None
    stages = beside.data.get("depths")
    if isinstance(stages, list) and len(stages) <= 8:  # Swin: each halves the sides, and there is no summary
        rows, columns = (side // patch >> len(stages) - 1 for side in sides)
        return rows * columns or None
    rows, columns = (side // patch for side in sides)
    if str(config.top.get("model_type")) in families.NARROWED_IMAGES:
        return rows * (columns // 4) + 1
    return rows * columns + 1


def _sparse_layers(config: Config, layers: int) -> int:
    """Encoder layers with experts: so many (Switch Transformers) or every so manieth (NLLB-MoE)."""
    if not has_experts(config):
        return 0
    wanted = config.optional("num_sparse_encoder_layers", least=0)
    if wanted is not None:
        return len(spread(layers, wanted))
    step = config.integer("encoder_sparse_step", 0, least=0)
    return layers // step if step else 0


def _separate(config: Config) -> Encoder:
    """An encoder with a configuration of its own."""
    heads = config.count("num_attention_heads")
    hidden = config.count("hidden_size")
    width = config.optional("intermediate_size") or 4 * hidden
    groups = config.optional("num_key_value_heads") or heads
    size, patch = config.optional("image_size"), config.optional("patch_size")
    return Encoder.model_construct(
        layers=config.count("num_hidden_layers"),
        hidden_size=hidden,
        attention=FullAttention.model_construct(
            query_heads=heads, kv_heads=groups, head_dim=head_dim(config, heads)
        ),
        mlp=DenseMlp.model_construct(intermediate_size=width, gated=is_gated(config)),
        max_tokens=(size // patch) ** 2 + 1 if size and patch else None,
        fixed_length=bool(size and patch),
    )


def decoder_layers(config: Config) -> int | None:
    """Decoder layers where they have a name of their own (T5, BART, Whisper)."""
    for key in ("num_decoder_layers", "decoder_layers"):
        value = config.data.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return check_layers(config, key, value)
    return None
