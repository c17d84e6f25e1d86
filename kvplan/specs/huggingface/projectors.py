"""What stands between a vision tower and the language model: weights that no layer of either has.

Which matrices those are is a habit of the whole model's class; their widths are in its file. Mergers of Qwen
and GLM, which belong to their towers, are counted there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kvplan.specs.huggingface.config import Config
from kvplan.specs.huggingface.widths import dense_width

OVIS_INDICATORS = {"ovis": 5, "ovis2_5": 4, "ovis2_6": 4, "ovis2_6_moe": 4}
"""Words of the visual vocabulary that stand for the parts of an image, and have no logit."""


MOST = 1 << 36
"""Parameters of a projector; what is larger is a mistake in the file."""


def projector(config: Config, tower: Config, hidden: int) -> int:
    """Parameters between a tower ``hidden`` wide and the language model of ``config``; 0 where unknown.

    Raises:
        SpecError: a width that is not a number.
    """
    kind = str(config.top.get("model_type") or "")
    rule = RULES.get(kind)
    if rule is None and config.top.get("projector_hidden_size") is not None:
        rule = _between
    size = rule(config, _Around(config, tower), hidden) if rule is not None else 0
    if size > MOST:
        raise config.error(f"{size:,} parameters in front of it are more than any model has", "hidden_size")
    return size


class _Around:
    """Numbers of the whole model's file, or of its tower's section."""

    def __init__(self, config: Config, tower: Config) -> None:
        self.whole = Config(config.top, {}, config.path)
        self.tower = tower

    def count(self, key: str, default: int) -> int:
        found = self.whole.optional(key)
        return int(found or self.tower.optional(key) or default)

    def patches(self, *keys: str) -> int:
        """Patches side by side that become one token: a side squared, or a list's product."""
        for key in keys:
            value = self.tower.data.get(key, self.whole.data.get(key))
            if isinstance(value, list) and len(value) == 2:
                rows, columns = (Config({key: side}, {}, self.whole.path).count(key) for side in value)
                return rows * columns
            if value is not None:
                side = Config({key: value}, {}, self.whole.path).number(key) or 1.0
                side = min(max(side, 1e-6), 1e6)
                side = 1 / side if side < 1 else side
                return max(int(side) ** 2, 1)
        return 4

    def taps(self) -> int:
        """Layers of the tower whose outputs are handed over side by side."""
        listed = self.whole.data.get("vision_feature_layer")
        return max(len(listed), 1) if isinstance(listed, list) else 1


def _llava(config: Config, around: _Around, hidden: int) -> int:
    out = config.count("hidden_size")
    return out * (around.taps() * hidden + out)


def _mistral(config: Config, around: _Around, hidden: int) -> int:
    return _llava(config, around, hidden) + around.patches("spatial_merge_size") * hidden * hidden


def _intern(config: Config, around: _Around, hidden: int) -> int:
    out = config.count("hidden_size")
    return out * (around.patches("downsample_ratio") * hidden + out)


def _between(config: Config, around: _Around, hidden: int) -> int:
    """LFM-VL, Cosmos: patches side by side, a width between, the text's."""
    merged = around.patches("spatial_merge_size", "downsample_factor") * hidden
    return around.count("projector_hidden_size", 1) * (merged + config.count("hidden_size"))


def _nvlm(config: Config, around: _Around, hidden: int) -> int:
    out, between = config.count("hidden_size"), dense_width(config, 0, gated=True) or 0
    return between * (around.patches("downsample_ratio") * hidden + out)


def _shuffled(config: Config, around: _Around, hidden: int) -> int:
    return around.patches("scale_factor") * hidden * config.count("hidden_size")


def _linear(config: Config, around: _Around, hidden: int) -> int:
    return hidden * config.count("hidden_size")


def _cohere(config: Config, around: _Around, hidden: int) -> int:
    between = around.count("alignment_intermediate_size", 4 * config.count("hidden_size"))
    merged = around.patches("downsample_factor") * hidden
    return between * merged + between // 2 * config.count("hidden_size")  # gated


def _moonvit(config: Config, around: _Around, hidden: int) -> int:
    merged = around.patches("merge_kernel_size", "spatial_merge_size") * hidden
    return merged * (merged + config.count("hidden_size"))


def _resampled(config: Config, around: _Around, hidden: int) -> int:
    """Learned queries look at the patches: K and V from their width, attention, and a last matrix."""
    out = config.count("hidden_size")
    return hidden * out + 5 * out * out


def _perceived(config: Config, around: _Around, hidden: int) -> int:
    """Idefics 2: a gated layer into the text's width, then a Perceiver of 64 queries."""
    out, width = config.count("hidden_size"), dense_width(config, 0, gated=True) or 0
    inner = around.whole.sub("perceiver_config")
    said: Mapping[str, Any] = inner.data if inner is not None else {}
    own = Config(said, {}, config.path, "perceiver_config.")
    heads, dim = own.integer("resampler_n_heads", 16), own.integer("resampler_head_dim", 96)
    groups, depth = own.integer("num_key_value_heads", 4), own.integer("resampler_depth", 3)
    layer = 2 * out * dim * (heads + groups) + 3 * out * 4 * out
    return width * (2 * hidden + out) + int(depth * layer + own.integer("resampler_n_latents", 64) * out)


def _ovis(config: Config, around: _Around, hidden: int) -> int:
    """Ovis: patches become words of a visual vocabulary, which has embeddings of its own."""
    inner = around.whole.sub("visual_tokenizer_config")
    own = inner if inner is not None else around.whole
    words = own.integer("visual_vocab_size", own.integer("vocab_size", 65536) if inner is not None else 65536)
    side = own.integer("hidden_stride", 2)
    indicators = OVIS_INDICATORS[str(around.whole.data["model_type"])]
    return int(words * config.count("hidden_size") + side * side * hidden * (words - indicators))


def _molmo(config: Config, around: _Around, hidden: int) -> int:
    """Molmo: four patches of two layers are pooled by attention, then a gated layer of half the text's."""
    half = config.count("intermediate_size") // 2
    pooled = 3 * 2 * hidden * hidden + hidden * hidden
    return pooled + half * (2 * hidden + config.count("hidden_size"))


def _docling(config: Config, around: _Around, hidden: int) -> int:
    """Granite Docling: two paths that merge patches by a factor each, also behind every tapped layer."""
    tower, out = around.tower, around.count("out_hidden_size", config.count("hidden_size"))
    factor = tower.integer("scale_factor", 4)
    taps = len(tower.items("deepstack_visual_indexes") or [])
    sides = [factor, factor // 2] if tower.flag("use_fine_route") else [factor]
    return int(sum(out * ((1 + taps) * side * side * hidden + taps * out) for side in sides) + out * out)


def _described(config: Config, around: _Around, hidden: int) -> int:
    """DeepSeek-VL2 and DeepSeek-OCR: a section says how many matrices, and how many patches go in."""
    own = around.whole.sub("projector_config")
    if own is None:
        return 0
    out = own.integer("n_embed", config.count("hidden_size"))
    merged = own.integer("input_dim", hidden)
    if own.get("projector_type") == "linear":
        return int(merged * out)
    if own.get("projector_type") == "downsample_mlp_gelu":
        merged *= own.integer("downsample_ratio", 2) ** 2
    wide = out * own.integer("mlp_ratio", 1)
    between = max(own.integer("depth", 2) - 2, 0)
    return int(merged * wide + between * wide * wide + wide * out)


def _glm4v(config: Config, around: _Around, hidden: int) -> int:
    """GLM-4V: a strided convolution to the text's width, a projection, a gated layer; learned positions."""
    out, width = config.count("hidden_size"), dense_width(config, 0, gated=True) or 0
    positions: int = around.tower.integer("num_positions", 0, least=0)
    return out * (4 * hidden + out + 3 * width) + hidden * positions


def _step3(config: Config, around: _Around, hidden: int) -> int:
    """Step 3: strided convolutions of sides two and three, the second twice as wide; then the text's."""
    wide = around.tower.integer("output_hidden_size", 4096)
    return int(4 * hidden * wide + 18 * wide * wide + 2 * wide * config.count("hidden_size"))


def _step_vl(config: Config, around: _Around, hidden: int) -> int:
    """Two strided convolutions of side three, each doubling the width."""
    return 90 * hidden * hidden + 4 * hidden * config.count("hidden_size")


def _fused(config: Config, around: _Around, hidden: int) -> int:
    """OpenVLA: both towers side by side, four times as wide between."""
    out = config.count("hidden_size")
    return 4 * hidden * (hidden + out) + out * out


def _phi3v(config: Config, around: _Around, hidden: int) -> int:
    out = config.count("hidden_size")
    return out * (4 * hidden + out)


RULES: dict[str, Callable[[Config, _Around, int], int]] = {
    **dict.fromkeys(
        ("llava", "llava_next", "llava_next_video", "llava_onevision", "vipllava", "video_llava"), _llava
    ),
    **dict.fromkeys(("mistral3", "lightonocr", "lighton_ocr"), _mistral),
    **dict.fromkeys(
        ("internvl_chat", "internvl", "h2ovl_chat", "skywork_chat", "interns1", "qianfan_ocr"), _intern
    ),
    "NVLM_D": _nvlm,
    **dict.fromkeys(("idefics3", "smolvlm"), _shuffled),
    **dict.fromkeys(("paligemma", "gemma3", "colpali", "t5gemma2", "gemma4"), _linear),
    **dict.fromkeys(("aya_vision", "cohere2_vision"), _cohere),
    **dict.fromkeys(("kimi_vl", "kimi_k25", "paddleocr_vl"), _moonvit),
    **dict.fromkeys(("minicpmv", "minicpmo"), _resampled),
    "idefics2": _perceived,
    **dict.fromkeys(OVIS_INDICATORS, _ovis),
    "molmo": _molmo,
    "granite_docling": _docling,
    "deepseek_vl_v2": _described,
    "chatglm": _glm4v,
    "step3_vl": _step3,
    **dict.fromkeys(("step_robotics", "step3p7"), _step_vl),
    "openvla": _fused,
    "phi3_v": _phi3v,
}
"""By the whole model's type."""
