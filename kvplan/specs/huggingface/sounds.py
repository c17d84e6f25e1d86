"""Towers that turn sounds into tokens: their layers, what stands in front of them and behind.

Like a tower for images one is beside the KV cache: what is missing or odd in it is a warning.
"""

from __future__ import annotations

from collections.abc import Mapping

from kvplan.errors import SpecError
from kvplan.specs.huggingface.between import dense, two
from kvplan.specs.huggingface.class_towers import tower_owners
from kvplan.specs.huggingface.codecs import is_codec
from kvplan.specs.huggingface.config import Config
from kvplan.specs.huggingface.tower_details import details
from kvplan.specs.huggingface.tower_shapes import (
    Shape,
    attention_parameters,
    is_gated_tower,
    names_a_size,
    tower_shape,
)
from kvplan.specs.huggingface.towers import ELSEWHERE, timm_towers, tower_section, uncounted
from kvplan.specs.model import ExtraWeights

SOUND = (
    "audio_config", "encoder_config", "audio_encoder_config", "audio_encoder", "sound_config",
    "speech_config", "audio_processor", "multimodal",
)  # fmt: skip
UNCOUNTED = ("embd_layer", "speech_lora", "vision_lora")
"""Sections that describe weights by other means than layers and widths."""
CONFORMER = (
    "conv_expansion_factor",
    "conf_conv_kernel_size",
    "conv_glu_type",
    "num_blocks",
    "convolution_bias",
)
"""Fields of towers whose layers have two feed-forward parts around attention and a convolution."""


def sound(config: Config) -> tuple[tuple[ExtraWeights, ...], list[str]]:
    """``(weights of the towers for sounds, warnings)`` of the model around a text configuration."""
    found: list[ExtraWeights] = []
    notes: list[str] = []
    for owner in tower_owners(config):
        for key in SOUND:
            section = tower_section(owner, key, config)
            if section is None or is_codec(section.data):
                continue
            name = key.removesuffix("_config").removesuffix("_processor")
            try:
                shape = tower_shape(section)
                if shape is None:
                    notes.append(uncounted(name))
                    continue
                size = shape.layers * _layer(section, shape) + _stem(section, shape)
                size += details(section, shape, shape.width, is_gated_tower(section))
                size += _projector(config, section, shape)
                notes += _cached_frames(section, shape, name)
                found.append(
                    ExtraWeights.model_construct(name=f"{name} tower", parameters=size, active=False)
                )
            except SpecError as exc:
                notes.append(f"the {name} tower is not counted: {exc.message} ({exc.where})")
        described = [key for key in UNCOUNTED if isinstance(owner.get(key), Mapping)]
        described += [
            key
            for key in ELSEWHERE
            if isinstance(owner.get(key), str)
            and not names_a_size(str(owner[key]))
            and not timm_towers(owner)
        ]
        if described:
            notes.append(f"weights described by {', '.join(described)} are not counted")
    return tuple(found), notes


def _cached_frames(section: Config, shape: Shape, name: str) -> list[str]:
    """A tower that hears as it goes (Voxtral Realtime) has a window of frames, and keeps their K and V."""
    window = section.optional("sliding_window")
    heads = section.optional("num_attention_heads")
    if window is None or heads is None:
        return []
    dim = section.optional("head_dim") or shape.hidden // heads
    groups = section.optional("num_key_value_heads") or heads
    size = shape.layers * (window - 1) * 2 * groups * dim * 2
    kept = f"{window:,} frames, {size / 2**20:,.0f} MiB a sequence in 16 bits"
    return [f"the {name} tower keeps K and V of a window of {kept}: not counted"]


def _layer(config: Config, shape: Shape) -> int:
    """Parameters of one layer: of a transformer, or of a conformer with two feed-forward parts."""
    hidden = shape.hidden
    relative = "convolution_bias" in config.data  # Parakeet: a projection of positions, nothing gated
    feed = hidden * shape.width * (3 if is_gated_tower(config) and not relative else 2)
    if not any(key in config.data for key in CONFORMER):
        return attention_parameters(config, hidden) + feed
    expansion: int = config.integer("conv_expansion_factor", 1)
    # Pointwise convolutions up (twice as wide for its gate) and down; the depthwise one between is small.
    pointwise = 3 * expansion + ("conv_glu_type" in config.data)  # Phi-4-multimodal has one more
    return ((5 if relative else 4) + pointwise) * hidden * hidden + 2 * feed


def _stem(config: Config, shape: Shape) -> int:
    """Convolutions in front of the layers: Whisper's two over time, Qwen 3's three over time and pitch."""
    bins = config.optional("num_mel_bins")
    if bins is None or any(key in config.data for key in CONFORMER):
        return 0
    narrow = config.optional("downsample_hidden_size")
    if narrow is None:
        return 3 * shape.hidden * (bins + shape.hidden)
    return narrow * (18 * narrow + -(-bins // 8) * shape.hidden)


def _projector(config: Config, tower: Config, shape: Shape) -> int:
    """Parameters between a tower for sounds and the language model of ``config``.

    Raises:
        SpecError: a width that is not a number.
    """
    hidden = shape.hidden
    whole, out = Config(config.top, {}, config.path), config.count("hidden_size")
    kind = str(config.top.get("model_type") or "")
    if kind == "ultravox":  # frames side by side, a gated layer between
        between = whole.integer("hidden_size", 4096)
        halved = 2 if whole.get("projector_act", "swiglu") == "swiglu" else 1
        return int(between * (whole.integer("stack_factor", 8) * hidden) + between // halved * out)
    if kind in ("audioflamingo3", "musicflamingo"):
        return two(hidden, out, out)
    if kind in ("voxtral", "voxtral_realtime"):
        factor = whole.integer("downsample_factor", 4)
        frames = shape.width if kind == "voxtral" else factor * hidden  # side by side
        return int(two(frames, out, out, biased=False))
    if kind == "glmasr":
        return two(4 * hidden, 2 * out, out)
    if kind.startswith(("qwen3_asr", "qwen3_omni")):
        return two(hidden, hidden, tower.integer("output_dim", out))
    if kind == "gemma3n":  # words for places of sounds, norms of these and of what the tower gives, a matrix
        return int((tower.integer("vocab_size", 128) + 2 + out) * hidden)
    if kind == "phi4_multimodal":  # one projector beside images, one without
        return 2 * two(hidden, out, out)
    if kind.startswith("qwen2_5_omni"):
        return dense(hidden, tower.integer("output_dim", out))
    return dense(hidden, out) if kind == "qwen2_audio" else 0
