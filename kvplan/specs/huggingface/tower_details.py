"""What a tower has beside its layers' matrices: patches, positions, biases and norms.

Which of them is a habit of the tower's class; their sizes follow from its fields. A class that is not known
here has its matrices counted alone, which is 0.1 to 0.5 % of a model less.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

from kvplan.specs.huggingface.config import Config
from kvplan.specs.huggingface.tower_shapes import (
    TOO_MANY,
    Shape,
    attention_widths,
    first_of,
    patches,
    sides,
)

MOST = 1 << 36
GRID = ("image_size",)
"""Positions are the patches of an image of fixed size."""


@dataclass(frozen=True, slots=True)
class Details:
    """Habits of a class of towers."""

    norm: int = 2
    """Vectors of a norm: weight and bias, or the weight alone (RMS)."""
    biased: str = "qkvof"
    """Projections with biases; ``f`` is both sides of the feed-forward part."""
    asked: str = ""
    """Those that have one where ``attention_bias`` or ``qkv_bias`` says so."""
    scales: int = 0
    """Vectors of a layer that scale what it adds."""
    head_norms: bool = False
    """Norms of Q and K over a head."""
    patch: str = "biased"
    """The projection of patches: ``biased``, ``plain``, or ``none`` where another tower makes them."""
    outer: int = 1
    """Norms before and behind all layers."""
    tokens: int = 0
    """Learned tokens beside patches, such as that of the class: each has a position too."""
    positions: tuple[str, ...] = ()
    """Fields whose product is the number of learned positions."""
    pooled: bool = False
    """A head that pools by attention, unless ``vision_use_head`` is false."""
    more: Callable[[Config, Shape], int] | None = None


def details(tower: Config, shape: Shape, width: int, gated: bool, pooled: bool = True) -> int:
    """Parameters beside the matrices of layers whose feed-forward parts are ``width`` wide; 0 where unknown.

    A model may cut off the head that pools: ``pooled``.

    Raises:
        SpecError: a size that is not a number.
    """
    known = KINDS.get(str(tower.data.get("model_type")))
    if known is None:
        return 0
    norm = 1 if tower.get("norm_type") == "rms_norm" else known.norm
    size = shape.layers * _layer(tower, known, shape, norm, width, gated)
    size += known.outer * norm * shape.hidden + _patch(tower, known) * shape.hidden
    size += (2 if known.positions else 1) * known.tokens * shape.hidden
    size += _positions(tower, known) * shape.hidden
    if known.pooled and pooled and tower.flag("vision_use_head", True):
        # A query, attention, a norm and a feed-forward part, with all biases.
        size += 4 * shape.hidden * (shape.hidden + 1) + 4 * shape.hidden + 2 * shape.hidden * width + width
    if known.more is not None:
        size += known.more(tower, shape)
    if size > MOST:
        raise tower.error(f"{size:,} parameters beside its layers are more than any tower has", "image_size")
    return size


def _layer(tower: Config, known: Details, shape: Shape, norm: int, width: int, gated: bool) -> int:
    asked = tower.flag("attention_bias", tower.flag("qkv_bias", False))
    biased = set(known.biased) - (set() if asked else set(known.asked))
    query, key = attention_widths(tower, shape.hidden)
    sizes = {
        "q": query,
        "k": key,
        "v": key,
        "o": shape.hidden,
        "f": shape.hidden + width * (2 if gated else 1),
    }
    size = sum(sizes[name] for name in biased) + (2 * norm + known.scales) * shape.hidden
    if known.head_norms:
        heads = first_of(tower, "num_attention_heads", "num_heads") or 1
        size += 2 * norm * (query // heads)
    return size


def _patch(tower: Config, known: Details) -> int:
    """Rows of the projection of patches, with its bias; frames of a film may lie in one patch."""
    both = sides(tower, "patch_size")
    if known.patch == "none" or both is None:
        return 0
    channels = first_of(tower, "in_channels", "num_channels") or 3
    frames = first_of(tower, "temporal_patch_size", "patch_temporal") or 1
    if max(*both, channels, frames) > TOO_MANY:
        raise tower.error("a size larger than any tower's", "patch_size")
    return int(prod(both) * channels * frames) + (known.patch == "biased")


def _positions(tower: Config, known: Details) -> int:
    if known.positions == GRID:
        return patches(tower) or 0
    found = [tower.optional(key) for key in known.positions]
    if not found or None in found:
        return 0
    return int(prod(min(size or 0, TOO_MANY) for size in found))


def handed_on(tower: Config) -> list[int]:
    """Widths of the convolutions behind a tower that stands in front of another."""
    widths = tower.items("downsample_channels") or []
    return [Config({"width": width}, {}, tower.path, tower.prefix).count("width") for width in widths]


def _segmenting(tower: Config, shape: Shape) -> int:
    """SAM: relative positions along both sides of a window or the image, and a neck of convolutions."""
    dim = shape.hidden // (first_of(tower, "num_attention_heads") or 1)
    grid, heads = sides(tower, "image_size"), sides(tower, "patch_size")
    out = tower.integer("output_channels", 256)
    size = out * (shape.hidden + 9 * out + 4)
    for above in handed_on(tower):
        size += 9 * out * above
        out = above
    if grid is None or heads is None or not tower.flag("use_rel_pos", True):
        return int(size)
    listed = tower.items("global_attn_indexes") or (2, 5, 8, 11)
    everywhere = sum(type(layer) is int and layer < shape.layers for layer in listed)
    window = tower.integer("window_size", 14)
    seen = everywhere * (grid[0] // heads[0]) + (shape.layers - everywhere) * window
    return int(size + 2 * dim * (2 * seen - shape.layers))


def _tiled(tower: Config, shape: Shape) -> int:
    """Llama 3.2 Vision: positions of every tile in every way to lay tiles out; gates."""
    tiles = tower.integer("max_num_tiles", 4)
    ways = len(tower.items("supported_aspect_ratios") or range(8)) + 1
    rows = (patches(tower) or 0) + 1
    return int(
        ways * tiles * shape.hidden * (rows + 2) + 3 + 2 * tower.integer("num_global_layers", 8, least=0)
    )


def _pyramid(tower: Config, shape: Shape) -> int:
    """dots3.note: the feed-forward parts of its upper layers are experts, more of them the higher."""
    width, own = tower.integer("moe_intermediate_size", shape.width), tower.get("per_layer_config")
    own = own if isinstance(own, dict) else {}
    kinds, counts = tower.items("mlp_layer_types"), tower.items("pyramid_num_routed")
    size = 0
    for layer in range(min(shape.layers, len(kinds or counts or []))):
        said = {"num_local_experts": counts[layer]} if counts and not kinds else own.get(str(layer), {})
        sparse = kinds[layer] == "sparse" if kinds else counts is not None and counts[layer] != -1
        if sparse:
            experts = Config({**tower.data, **said}, {}, tower.path, tower.prefix).count("num_local_experts")
            size += shape.hidden * (experts * (3 * width + 1) - 3 * shape.width)
    return int(size)


def _convolved(tower: Config, shape: Shape) -> int:
    """LFM3-VL: layers with a gated convolution over the grid of patches in place of attention."""
    kinds = tower.items("layer_types") or [
        "conv" if layer < 2 or layer % 2 else "full_attention" for layer in range(shape.layers)
    ]
    convolved, hidden = sum(kind == "conv" for kind in kinds), shape.hidden
    query, key = attention_widths(tower, hidden)
    norms = 2 * (query // (first_of(tower, "num_attention_heads") or 1))
    mixed = hidden * (4 * hidden + tower.integer("conv_kernel_size", 3) ** 2)
    return int(convolved * (mixed - 2 * hidden * (query + key) - norms))


def _rows_and_columns(tower: Config, shape: Shape) -> int:
    """Kosmos 2.5: flat patches, and positions for rows and for columns."""
    flat = tower.integer("patch_embed_hidden_size", 768) + 1
    return int(shape.hidden * (flat + 2 * tower.integer("max_num_patches", 4096)))


def _registers(tower: Config, shape: Shape) -> int:
    """RADIO: positions of the largest image, tokens of class and registers, and patches of films."""
    piece = tower.integer("patch_size", 16)
    tokens = tower.integer("num_cls_tokens", 3, least=0) + tower.integer("num_registers", 7, least=0)
    films = tower.integer("video_temporal_patch_size", 0, least=0) * 3 * piece * piece
    return shape.hidden * int((tower.integer("max_img_size", 2048) // piece) ** 2 + tokens + films)


def _heard(tower: Config, shape: Shape) -> int:
    """Biases of convolutions over time, and Qwen 2.5 Omni's tokens around a sound."""
    around = 2 if str(tower.data.get("model_type")).startswith("qwen2_5_omni") else 0
    return int(2 * shape.hidden + around * tower.integer("output_dim", 3584))


def _streamed(tower: Config, shape: Shape) -> int:
    """Voxtral Realtime: biases of convolutions, and of the last matrix of a gated feed-forward part."""
    return (2 + shape.layers) * shape.hidden


def _pitched(tower: Config, shape: Shape) -> int:
    """Qwen 3: the first of three convolutions over time and pitch, and the biases of all."""
    return int((9 + 3) * tower.integer("downsample_hidden_size", 480))


def _conformed(tower: Config, shape: Shape) -> int:
    """Phi-4-multimodal: norms, biases and depthwise convolutions of its conformer, and what is before."""
    hidden, heads = shape.hidden, first_of(tower, "num_attention_heads") or 16
    layer = hidden * (10 + 4 + 2 + 7 + tower.integer("kernel_size", 3)) + 4 * shape.width
    stem = hidden * ((tower.integer("nemo_final_size", 10) + 2) * hidden + 3 * 9 + 5 + 1)
    return int(shape.layers * layer + stem + 2 * tower.integer("bias_max_distance", 1000) * heads)


def _universal(tower: Config, shape: Shape) -> int:
    """Gemma 3n: projections of positions, norms and depthwise convolutions of its conformer; two before."""
    hidden, heads = shape.hidden, tower.integer("conf_num_attention_heads", 8)
    layer = hidden * (hidden + 9 + tower.integer("conf_conv_kernel_size", 5)) + hidden // heads
    first, second = _channels(tower)
    bins = -(-tower.integer("input_feat_size", 128) // 4)
    return int(shape.layers * layer + 10 * first + second * (9 * first + 1 + bins * hidden))


def _channels(tower: Config) -> tuple[int, int]:
    """Of Gemma 3n's two convolutions."""
    listed = tower.items("sscp_conv_channel_size") or [128, 32]
    if len(listed) != 2:
        raise tower.error("expected two numbers of channels", "sscp_conv_channel_size")
    sizes = [Config({"channels": size}, {}, tower.path, tower.prefix).count("channels") for size in listed]
    return sizes[0], sizes[1]


SIGLIP = Details(positions=GRID)
CLIP = Details(patch="plain", outer=2, tokens=1, positions=GRID)
BLIP = Details(tokens=1, positions=GRID)
INTERN = Details(asked="qkv", scales=2, outer=0, tokens=1, positions=GRID)
QWEN = Details(patch="plain", outer=0)
QWEN3 = Details(outer=0, positions=("num_position_embeddings",))
SAM = Details(asked="qkv", outer=0, positions=GRID, more=_segmenting)
MOON = Details(positions=("pos_emb_height", "pos_emb_width"))
GLM_OCR = Details(norm=1, asked="qkvof", head_norms=True)
RMS = Details(norm=1, biased="")

WHISPER = Details(biased="qvof", positions=("max_source_positions",), more=_heard)
QWEN3_SOUND = Details(more=_pitched)

KINDS: dict[str, Details] = {
    **dict.fromkeys(
        (
            "siglip", "idefics2", "idefics2_vision", "idefics3_vision", "smolvlm_vision",
            "minicpmv4_6_vision",
            "minicpmv4_7_vision", "minicpm_ocr_vision", "paddleocr_vl_vision", "granite_docling_vision",
        ),
        SIGLIP,
    ),
    "siglip_vision_model": replace(SIGLIP, pooled=True),
    "phi4_multimodal_vision": replace(SIGLIP, pooled=True),
    "siglip2_vision_model": Details(positions=("num_patches",), pooled=True),
    "cosmos3_edge_vision": Details(positions=("num_patches",)),
    "video_llama_3_vision": Details(),
    "janus_vision_model": replace(SIGLIP, asked="qkv"),
    **dict.fromkeys(
        ("clip_vision_model", "kosmos_2_vision_model", "git_vision_model", "idefics_vision"), CLIP
    ),
    "molmo_vision": replace(CLIP, outer=1),
    "unlimited_ocr_vision_encoder": replace(CLIP, patch="none", outer=1),
    **dict.fromkeys(
        (
            "blip_vision_model", "blip_2_vision_model", "instructblip_vision_model",
            "instructblipvideo_vision_model",
        ),
        BLIP,
    ),
    **dict.fromkeys(("internvl_vision", "qianfan_ocr_vision", "intern_vit_6b"), INTERN),
    "qwen2_vl_vision": QWEN,
    **dict.fromkeys(
        ("qwen2_5_vl_vision", "qwen2_5_omni_vision_encoder", "exaone4_5_vision"), replace(QWEN, norm=1)
    ),
    **dict.fromkeys(
        (
            "qwen3_vl_vision", "qwen3_vl_moe_vision", "qwen3_5_vision", "qwen3_5_moe_vision",
            "qwen4_exp_vision", "qwen3_omni_moe_vision_encoder",
        ),
        QWEN3,
    ),
    "kimi_k25_vision": MOON,
    "moonvit": replace(MOON, positions=("init_pos_emb_height", "init_pos_emb_width")),
    **dict.fromkeys(("muse_glimmer_vision", "muse_spark_vision"), replace(MOON, patch="plain", outer=2)),
    **dict.fromkeys(("glm4v_vision", "glm4v_moe_vision"), replace(RMS, outer=2, positions=GRID)),
    **dict.fromkeys(("glm_ocr_vision", "glm5_next_vision"), GLM_OCR),
    "ernie4_5_vl_moe_vision": Details(patch="plain"),
    "minimax_m3_vl_vision": Details(patch="plain"),
    "dots3_note_vision_encoder": replace(RMS, head_norms=True, outer=2, more=_pyramid),
    "dots_vit": replace(RMS, outer=2),
    "pixtral": replace(RMS, patch="plain"),
    **dict.fromkeys(("aimv2", "aimv2_vision_model", "ovis2_vision"), replace(RMS, outer=2, positions=GRID)),
    "lfm3_vl_vision": replace(RMS, patch="plain", head_norms=True, more=_convolved),
    "molmo2_vision": Details(outer=0, positions=("num_position_embeddings",)),
    "llama4_vision_model": CLIP,
    "mllama_vision_model": replace(CLIP, biased="f", more=_tiled),
    "inkling2_vision": Details(
        scales=2, patch="plain", tokens=1, positions=("posemb_grid_size", "posemb_grid_size")
    ),
    "step3p5_vision": Details(scales=2, patch="plain", positions=GRID),
    "radio": Details(scales=2, patch="plain", outer=0, more=_registers),
    **dict.fromkeys(
        ("got_ocr2_vision", "pp_chart2table_vision", "sam_vision_model", "unlimited_ocr_sam_vision_model"),
        SAM,
    ),
    **dict.fromkeys(("qwen2_audio_encoder", "voxtral_encoder", "audioflamingo3_encoder"), WHISPER),
    **dict.fromkeys(("qwen2_5_omni_audio_encoder", "glmasr_encoder"), replace(WHISPER, positions=())),
    **dict.fromkeys(("qwen3_asr_encoder", "qwen3_omni_moe_audio_encoder"), QWEN3_SOUND),
    "gemma3n_audio": Details(norm=0, biased="", outer=0, more=_universal),
    "voxtral_realtime_encoder": Details(norm=1, biased="qvo", more=_streamed),
    "phi4_multimodal_audio": Details(norm=0, biased="", outer=0, more=_conformed),
    "kosmos_2_5_vision_model": replace(RMS, patch="none", more=_rows_and_columns),
}  # fmt: skip
"""By the type of the tower; ``moonvit``, ``intern_vit_6b`` and ``dots_vit`` are of their makers."""
