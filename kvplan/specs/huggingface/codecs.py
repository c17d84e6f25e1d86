"""Codecs: convolutions that turn sound into latents or codes and back, and the heads that diffuse latents.

A section describes a codec when it lists the strides of its convolutions. Like a tower it stands beside the
KV cache: what is odd in it is a warning and refuses no model. Formulas are those of the classes of
transformers 5.23 (``mimi``, ``encodec``, ``vibevoice_acoustic_tokenizer``, ``vibevoice``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvplan.errors import SpecError
from kvplan.specs.huggingface.config import Config, owners
from kvplan.specs.model import ExtraWeights

STRIDES = ("downsampling_ratios", "encoder_ratios", "upsampling_ratios")
DEPTHS = ("depths", "encoder_depths")
FILTERS = ("num_filters", "encoder_n_filters")
LATENT = ("hidden_size", "vae_dim")
MOST_STAGES = 16


def codecs(config: Config) -> tuple[tuple[ExtraWeights, ...], list[str]]:
    """``(weights of every codec and diffusion head around a text configuration, warnings)``."""
    found: list[ExtraWeights] = []
    notes: list[str] = []
    for owner in owners(config):
        for key, section in owner.items():
            if not isinstance(section, Mapping):
                continue
            name = key.removesuffix("_config")
            own = Config(section, {}, config.path, f"{key}.")
            try:
                if is_codec(section):
                    size = codec_parameters(own)
                elif "latent_size" in section:
                    size = _diffusion_head(own, config)
                else:
                    continue
            except SpecError as exc:
                notes.append(f"the {name} is not counted: {exc.message} ({exc.where})")
                continue
            if size:
                found.append(ExtraWeights.model_construct(name=name, parameters=size, active=False))
    return tuple(found), notes


def is_codec(section: Mapping[str, Any]) -> bool:
    """Whether a section lists the strides of a codec's convolutions."""
    return any(isinstance(section.get(key), list) for key in STRIDES)


def codec_parameters(config: Config) -> int:
    """Parameters of one codec, both ways unless its type says that it only encodes.

    Raises:
        SpecError: sizes that are no numbers, or more stages than any codec has.
    """
    strides = _numbers(config, next(key for key in STRIDES if isinstance(config.data.get(key), list)))
    if any(config.data.get(key) is not None for key in DEPTHS):
        return _convolved_blocks(config, strides)
    return _residual_units(config, strides)


def _convolved_blocks(config: Config, strides: Sequence[int]) -> int:
    """VibeVoice: stages of depthwise convolutions and MLPs; channels double from one stage to the next."""
    depths = _numbers(config, next(key for key in DEPTHS if config.data.get(key) is not None))
    if len(depths) != len(strides) + 1:
        raise config.error(f"{len(depths)} stages contradict {len(strides)} strides between them", "depths")
    if "encoder_ratios" in config.data:  # as published: from the sound's end of the decoder
        strides = strides[::-1]
    kernel, expansion = config.integer("kernel_size", 7), config.integer("ffn_expansion", 4)
    channels = _first(config, FILTERS, 32)
    size = kernel * config.integer("channels", 1) * channels
    for stage, depth in enumerate(depths):
        size += depth * (kernel * channels + 2 * expansion * channels * channels)
        if stage < len(strides):
            size += 4 * strides[stage] * channels * channels
            channels *= 2
    size += kernel * channels * _first(config, LATENT, 64)
    one_way = str(config.data.get("model_type")).endswith(("_encoder", "semantic_tokenizer"))
    return int(size if one_way else 2 * size)


def _residual_units(config: Config, strides: Sequence[int]) -> int:
    """SEANet (EnCodec, Mimi): residual units, strided convolutions, perhaps transformers beside the codes."""
    hidden, kernel = config.count("hidden_size"), config.integer("kernel_size", 7)
    channels, narrow = config.integer("num_filters", 32), config.integer("compress", 2)
    units, wide = config.integer("num_residual_layers", 1), config.integer("residual_kernel_size", 3)
    audio, last = config.integer("audio_channels", 1), config.integer("last_kernel_size", 7)
    size = kernel * channels * audio + last * channels * audio
    for stride in reversed(strides):
        size += 2 * units * (wide + 1) * channels * channels // narrow
        size += 2 * 4 * stride * channels * channels
        channels *= 2
    size += (kernel + last) * channels * hidden
    size += 2 * config.integer("num_lstm_layers", 0, least=0) * 8 * channels * channels
    layers = config.optional("num_hidden_layers")
    if layers is not None:
        size += 2 * layers * hidden * (4 * hidden + 2 * config.count("intermediate_size"))
    return int(size)


def _diffusion_head(config: Config, text: Config) -> int:
    """VibeVoice: gated layers, each modulated by a projection three times as wide as the hidden size."""
    layers = config.optional("num_hidden_layers") or config.optional("head_layers")
    if layers is None:
        return 0
    latent = config.count("latent_size")
    hidden = config.optional("hidden_size") or text.count("hidden_size")
    width = config.optional("intermediate_size") or int(hidden * (config.number("head_ffn_ratio") or 3))
    size = layers * 3 * hidden * (width + hidden) + 2 * latent * hidden
    # The condition, the step of diffusion, and the modulation of what goes out.
    return int(size + hidden * (4 * hidden + config.integer("frequency_embedding_size", 256)))


def _first(config: Config, keys: Sequence[str], default: int) -> int:
    return next((found for key in keys if (found := config.optional(key)) is not None), default)


def _numbers(config: Config, key: str) -> list[int]:
    """A list of whole numbers, or a text of them between dashes (``"3-3-8"``)."""
    value = config.data[key]
    listed = value.split("-") if isinstance(value, str) else value
    if not isinstance(listed, list) or not 0 < len(listed) <= MOST_STAGES:
        raise config.error("expected a list of whole numbers", key)
    numbers = [int(str(item)) if str(item).isdecimal() and len(str(item)) < 6 else 0 for item in listed]
    if not all(0 < number <= 1 << 16 for number in numbers):
        raise config.error("expected a list of whole numbers", key)
    return numbers
