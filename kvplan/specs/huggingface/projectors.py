"""What stands between a vision tower and the language model: weights that no layer of either has.

Which matrices those are is a habit of the whole model's class; their widths are in its file. Mergers of Qwen
and GLM, which belong to their towers, are counted there.
"""

from __future__ import annotations

from collections.abc import Callable

from kvplan.specs.huggingface import resamplers
from kvplan.specs.huggingface.between import Around, dense, two
from kvplan.specs.huggingface.config import Config
from kvplan.specs.huggingface.widths import dense_width

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
    size = rule(config, Around(config, tower), hidden) if rule is not None else 0
    if size > MOST:
        raise config.error(f"{size:,} parameters in front of it are more than any model has", "hidden_size")
    return size


def _llava(config: Config, around: Around, hidden: int) -> int:
    out = config.count("hidden_size")
    return two(around.taps() * hidden, out, out, around.whole.flag("multimodal_projector_bias", True))


def _lined(config: Config, around: Around, hidden: int) -> int:
    """LLaVA-NeXT: a learned end of an image's lines."""
    return _llava(config, around, hidden) + config.count("hidden_size")


def _vip(config: Config, around: Around, hidden: int) -> int:
    """VipLLaVA: five layers side by side where the file does not say which, and a norm."""
    said = any(key in around.whole.data for key in ("vision_feature_layers", "vision_feature_layer"))
    out, merged = config.count("hidden_size"), (around.taps() if said else 5) * hidden
    return 2 * merged + two(merged, out, out, around.whole.flag("multimodal_projector_bias", True))


def _mistral(config: Config, around: Around, hidden: int) -> int:
    out, biased = config.count("hidden_size"), around.whole.flag("multimodal_projector_bias")
    merger = around.patches("spatial_merge_size") * hidden * hidden + hidden
    return two(around.taps() * hidden, out, out, biased) + merger


def _intern(config: Config, around: Around, hidden: int) -> int:
    out, merged = config.count("hidden_size"), around.patches("downsample_ratio") * hidden
    return 2 * merged + two(merged, out, out)


def _between(config: Config, around: Around, hidden: int) -> int:
    """LFM2-VL and others: patches side by side, a width between, the text's."""
    merged = around.patches("spatial_merge_size", "downsample_factor") * hidden
    size = two(merged, around.count("projector_hidden_size", 2560), config.count("hidden_size"))
    return size + (2 * merged if around.whole.flag("projector_use_layernorm", True) else 0)


def _normed(config: Config, around: Around, hidden: int) -> int:
    """LFM3-VL, Cosmos 3 Edge: the norm stands before the merger."""
    merged = around.patches("spatial_merge_size", "downsample_factor") * hidden
    wide = {"cosmos3_edge": 11520}.get(str(around.whole.data["model_type"]), 4096)
    return 2 * hidden + two(merged, around.count("projector_hidden_size", wide), config.count("hidden_size"))


def _minimax(config: Config, around: Around, hidden: int) -> int:
    """MiniMax M3: every patch into the text's width, then four of them side by side."""
    out, wide = config.count("hidden_size"), around.count("projector_hidden_size", 6144)
    merged = around.patches("spatial_merge_size") * out
    return two(hidden, wide, out) + two(merged, wide, out)


def _adapted(config: Config, around: Around, hidden: int) -> int:
    """Muse: an adapter of one width, and a projection."""
    wide = around.count("projector_hidden_size", 4096)
    merged = around.whole.integer("out_hidden_size", around.patches("merge_size") * hidden)
    return two(merged, wide, wide, biased=False) + wide * config.count("hidden_size")


def _shuffled_twice(config: Config, around: Around, hidden: int) -> int:
    """Llama 4: patches side by side, as wide as the feed-forward parts, through an adapter; a matrix."""
    wide = around.tower.integer("projector_output_dim", 4096)
    merged, between = (
        around.tower.integer("intermediate_size", 5632),
        around.tower.integer("projector_input_dim", 4096),
    )
    handed = around.tower.integer("vision_output_dim", 4096)
    return int(merged * between + wide * wide + handed * config.count("hidden_size"))


def _merged_flat(config: Config, around: Around, hidden: int) -> int:
    """Inkling 2: two matrices without biases, whose widths the tower says."""
    tower = around.tower
    out = tower.integer("text_hidden_size", config.count("hidden_size"))
    merged = around.patches("spatial_merge_size") * hidden
    return two(merged, tower.integer("projection_hidden_dim", 4096), out, biased=False)


def _omni(config: Config, around: Around, hidden: int) -> int:
    """Nemotron Omni: an RMS norm and two matrices without biases."""
    merged = around.patches("downsample_ratio") * hidden
    wide = around.count("projector_hidden_size", 4096)
    return merged + two(merged, wide, config.count("hidden_size"), biased=False)


def _nvlm(config: Config, around: Around, hidden: int) -> int:
    out, between = config.count("hidden_size"), dense_width(config, 0, gated=True) or 0
    return between * (around.patches("downsample_ratio") * hidden + out)


def _shuffled(config: Config, around: Around, hidden: int) -> int:
    return around.patches("scale_factor") * hidden * config.count("hidden_size")


def _linear(config: Config, around: Around, hidden: int) -> int:
    return hidden * config.count("hidden_size")


def _biased(config: Config, around: Around, hidden: int) -> int:
    out = around.tower.optional("projection_dim") or around.whole.optional("projection_dim")
    return dense(hidden, out or 2048)


def _soft(config: Config, around: Around, hidden: int) -> int:
    """Gemma 3: an RMS norm, and a matrix."""
    return _linear(config, around, hidden) + hidden


def _heard_and_seen(config: Config, around: Around, hidden: int) -> int:
    """Gemma 3n: words for places of images, norms of these and of what the tower gives; a matrix."""
    return int((around.tower.integer("vocab_size", 128) + 2 + config.count("hidden_size")) * hidden)


def _separate(config: Config, around: Around, hidden: int) -> int:
    """Phi-4-multimodal: two matrices, and ends of the small and the whole image's lines."""
    out = config.count("hidden_size")
    return two(hidden, out, out) + 2 * hidden


def _crossed(config: Config, around: Around, hidden: int) -> int:
    """Llama 3.2 Vision: outputs of tapped layers beside the last."""
    taps = len(around.tower.items("intermediate_layers_indices") or [])
    return dense(around.count("vision_output_dim", (1 + taps) * hidden), config.count("hidden_size"))


def _cohere(config: Config, around: Around, hidden: int) -> int:
    aya = around.whole.data["model_type"] == "aya_vision"
    usual = config.count("hidden_size") if aya else 36864
    between = around.count("alignment_intermediate_size", usual)
    merged = around.patches("downsample_factor") * hidden
    norm = 2 * merged if aya else 0
    return norm + dense(merged, between) + dense(between // 2, config.count("hidden_size"))  # gated


def _moonvit(config: Config, around: Around, hidden: int) -> int:
    merged = around.patches("merge_kernel_size", "spatial_merge_size") * hidden
    return 2 * around.count("projection_hidden_size", hidden) + two(
        merged, merged, config.count("hidden_size")
    )


def _described(config: Config, around: Around, hidden: int) -> int:
    """DeepSeek-VL2 and DeepSeek-OCR: a section says how many matrices, and how many patches go in."""
    own = around.whole.sub("projector_config")
    if own is None:
        return 0
    out = own.integer("n_embed", config.count("hidden_size"))
    merged = own.integer("input_dim", hidden)
    if own.get("projector_type") == "linear":
        return dense(merged, out)
    if own.get("projector_type") == "downsample_mlp_gelu":
        merged *= own.integer("downsample_ratio", 2) ** 2
    wide = out * own.integer("mlp_ratio", 1)
    between = max(own.integer("depth", 2) - 2, 0)
    return int(dense(merged, wide) + between * dense(wide, wide) + dense(wide, out))


def _separated(config: Config, around: Around, hidden: int) -> int:
    """DeepSeek-OCR's kin in transformers: one matrix, an end of lines and one of views."""
    return dense(hidden, config.count("hidden_size")) + 2 * config.count("hidden_size")


def _upsampled(config: Config, around: Around, hidden: int) -> int:
    """GOT-OCR: a convolution of side three that doubles the width, one to the text's, and a matrix."""
    out, below = config.count("hidden_size"), around.tower.integer("output_channels", 256)
    return int(18 * below * (below + out)) + dense(out, out)


def _aligned(config: Config, around: Around, hidden: int) -> int:
    """Janus: as many matrices as its tower's ``depth``."""
    out = around.tower.integer("projection_dim", config.count("hidden_size"))
    return int(dense(hidden, out) + (around.tower.integer("depth", 2) - 1) * dense(out, out))


def _flat(config: Config, around: Around, hidden: int) -> int:
    """HyperCLOVA X: a matrix behind the tower's own merger."""
    return dense(around.tower.integer("out_hidden_size", hidden), config.count("hidden_size"))


def _glm4v(config: Config, around: Around, hidden: int) -> int:
    """GLM-4V: a strided convolution to the text's width, a projection, a gated layer; learned positions."""
    out, width = config.count("hidden_size"), dense_width(config, 0, gated=True) or 0
    positions: int = around.tower.integer("num_positions", 0, least=0)
    return out * (4 * hidden + out + 3 * width) + hidden * positions


def _step3(config: Config, around: Around, hidden: int) -> int:
    """Step 3: strided convolutions of sides two and three, the second twice as wide; then the text's."""
    wide = around.tower.integer("output_hidden_size", 4096)
    return int(4 * hidden * wide + 18 * wide * wide + 2 * wide * config.count("hidden_size"))


def _step_vl(config: Config, around: Around, hidden: int) -> int:
    """Two strided convolutions of side three, each doubling the width."""
    return 90 * hidden * hidden + 6 * hidden + 4 * hidden * config.count("hidden_size")


def _fused(config: Config, around: Around, hidden: int) -> int:
    """OpenVLA: both towers side by side, four times as wide between."""
    out = config.count("hidden_size")
    return 4 * hidden * (hidden + out) + out * out


def _phi3v(config: Config, around: Around, hidden: int) -> int:
    out = config.count("hidden_size")
    return out * (4 * hidden + out)


RULES: dict[str, Callable[[Config, Around, int], int]] = {
    **dict.fromkeys(("llava", "video_llava", "video_llama_3", "fast_vlm", "deepseek_vl"), _llava),
    **dict.fromkeys(("llava_next", "llava_next_video", "llava_onevision"), _lined),
    "vipllava": _vip,
    **dict.fromkeys(("mistral3", "mistral_large4", "lightonocr", "lighton_ocr"), _mistral),
    **dict.fromkeys(
        ("internvl_chat", "internvl", "h2ovl_chat", "skywork_chat", "interns1", "qianfan_ocr"), _intern
    ),
    **dict.fromkeys(("cosmos3_edge", "lfm3_vl"), _normed),
    "minimax_m3_vl": _minimax,
    **dict.fromkeys(("muse_glimmer", "muse_spark"), _adapted),
    "lfm2_vl": _between,
    "inkling2": _merged_flat,
    "llama4": _shuffled_twice,
    "mllama": _crossed,
    **dict.fromkeys(("phi4_multimodal", "phi4mm"), _separate),
    "gemma3n": _heard_and_seen,
    "nemotron_h_omni": _omni,
    "NVLM_D": _nvlm,
    **dict.fromkeys(("idefics3", "smolvlm"), _shuffled),
    **dict.fromkeys(("colpali", "gemma4"), _linear),
    **dict.fromkeys(("gemma3", "shieldgemma2", "t5gemma2"), _soft),
    "paligemma": _biased,
    **dict.fromkeys(("aya_vision", "cohere2_vision"), _cohere),
    **dict.fromkeys(("kimi_vl", "kimi_k25", "paddleocr_vl"), _moonvit),
    **dict.fromkeys(("minicpmv", "minicpmo"), resamplers.resampled),
    **dict.fromkeys(("minicpmv4_6", "minicpmv4_7", "minicpm_ocr"), resamplers.windowed),
    "aria": resamplers.queried,
    **dict.fromkeys(("kosmos-2", "kosmos-2.5"), resamplers.latent),
    "ernie4_5_vl_moe": resamplers.temporal,
    "idefics2": resamplers.perceived,
    **dict.fromkeys(resamplers.OVIS_INDICATORS, resamplers.ovis),
    "ovis2": resamplers.ovis_2,
    "molmo": resamplers.molmo,
    "molmo2": resamplers.molmo_2,
    "granite_docling": resamplers.docling,
    "deepseek_vl_v2": _described,
    "unlimited_ocr": _separated,
    **dict.fromkeys(("got_ocr2", "pp_chart2table"), _upsampled),
    "janus": _aligned,
    "hyperclovax_vision_v2": _flat,
    "chatglm": _glm4v,
    "step3_vl": _step3,
    **dict.fromkeys(("step_robotics", "step3p7"), _step_vl),
    "openvla": _fused,
    "phi3_v": _phi3v,
}
"""By the whole model's type."""
