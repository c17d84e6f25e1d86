"""Projectors with learned queries, attention, a vocabulary or several paths: more than matrices in a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvplan.specs.huggingface.between import Around, dense, two
from kvplan.specs.huggingface.config import Config
from kvplan.specs.huggingface.widths import dense_width

OVIS_INDICATORS = {"ovis": 5, "ovis2_5": 4, "ovis2_6": 4, "ovis2_6_moe": 4}
"""Words of the visual vocabulary that stand for the parts of an image, and have no logit."""

MOST_MERGERS = 8


def resampled(config: Config, around: Around, hidden: int) -> int:
    """Learned queries look at the patches: K and V from their width, attention, and a last matrix."""
    out = config.count("hidden_size")
    return (around.count("query_num", 64) + hidden + 5 * out + 10) * out


def windowed(config: Config, around: Around, hidden: int) -> int:
    """MiniCPM-V 4.6: attention and a feed-forward part over windows inside the tower, then merging again."""
    window = around.patches("window_kernel_size") * hidden
    within = 4 * dense(hidden, hidden) + 2 * hidden + 2 * window
    within += two(
        window,
        around.patches("window_kernel_size") * around.tower.integer("intermediate_size", 4 * hidden),
        hidden,
    )
    merged, times = around.patches("merge_kernel_size") * hidden, around.count("merger_times", 1)
    if times > MOST_MERGERS:
        raise around.whole.error("more mergers than any model has", "merger_times")
    again = (times - 1) * (2 * merged + two(merged, merged, hidden))
    return within + again + 2 * merged + two(merged, merged, config.count("hidden_size"))


def queried(config: Config, around: Around, hidden: int) -> int:
    """Aria: learned queries, attention behind projections of its own, a feed-forward part."""
    queries, out = around.count("max_value_projector_patch_to_query_dict", 256), config.count("hidden_size")
    listed = around.whole.data.get("projector_patch_to_query_dict")
    if isinstance(listed, Mapping) and listed:
        queries = max(Config({"queries": size}, {}, config.path).count("queries") for size in listed.values())
    attention = 3 * hidden * hidden + 5 * dense(hidden, hidden)
    return queries * hidden + attention + 6 * hidden + two(hidden, out, out, biased=False)


def latent(config: Config, around: Around, hidden: int) -> int:
    """Kosmos: a matrix, then learned queries that attend to what it gives."""
    out, usual = config.count("hidden_size"), 2048 if around.whole.data["model_type"] == "kosmos-2.5" else 64
    queries = around.count("latent_query_num", usual)
    return dense(hidden, out) + queries * out + 4 * dense(out, out)


def temporal(config: Config, around: Around, hidden: int) -> int:
    """ERNIE 4.5 VL: four patches side by side, then two frames, then the text's width."""
    merged = around.patches("spatial_merge_size") * hidden
    frames = around.count("temporal_merge_size", around.count("temporal_conv_size", 2))
    size = two(merged, merged, merged) + two(frames * merged, merged, merged) + 4 * merged
    return size + dense(merged, config.count("hidden_size")) + config.count("hidden_size")


def perceived(config: Config, around: Around, hidden: int) -> int:
    """Idefics 2: a gated layer into the text's width, then a Perceiver of 64 queries."""
    out, width = config.count("hidden_size"), dense_width(config, 0, gated=True) or 0
    inner = around.whole.sub("perceiver_config")
    said: Mapping[str, Any] = inner.data if inner is not None else {}
    own = Config(said, {}, config.path, "perceiver_config.")
    heads, dim = own.integer("resampler_n_heads", 16), own.integer("resampler_head_dim", 96)
    groups, depth = own.integer("num_key_value_heads", 4), own.integer("resampler_depth", 3)
    layer = 2 * out * dim * (heads + groups) + 3 * out * 4 * out + 3 * out
    return width * (2 * hidden + out) + int(
        depth * layer + (own.integer("resampler_n_latents", 64) + 1) * out
    )


def ovis(config: Config, around: Around, hidden: int) -> int:
    """Ovis: patches become words of a visual vocabulary, which has embeddings of its own."""
    inner = around.whole.sub("visual_tokenizer_config")
    own = inner if inner is not None else around.whole
    words = own.integer("visual_vocab_size", own.integer("vocab_size", 65536) if inner is not None else 65536)
    side = own.integer("hidden_stride", 2)
    indicators = OVIS_INDICATORS[str(around.whole.data["model_type"])]
    return int(words * config.count("hidden_size") + (side * side * hidden + 2) * (words - indicators))


def ovis_2(config: Config, around: Around, hidden: int) -> int:
    """Ovis 2 of transformers: its table is as wide as the whole model's file says."""
    words, side = around.tower.integer("vocab_size", 16384), around.tower.integer("hidden_stride", 1)
    heads = max(words - around.tower.integer("num_visual_indicator_tokens", 5), 0)
    return int(words * around.whole.integer("hidden_size", 1536) + (side * side * hidden + 2) * heads)


def molmo(config: Config, around: Around, hidden: int) -> int:
    """Molmo: four patches of two layers are pooled by attention, then a gated layer of half the text's."""
    half = config.count("intermediate_size") // 2
    pooled = 3 * dense(2 * hidden, hidden) + dense(hidden, hidden) + 4 * hidden  # words for padding
    return pooled + half * (2 * hidden + config.count("hidden_size"))


def molmo_2(config: Config, around: Around, hidden: int) -> int:
    """Molmo 2: the same, in a section that says how wide."""
    own = around.whole.sub("adapter_config")
    own = own if own is not None else Config({}, {}, config.path, "adapter_config.")
    taps = len(own.items("vision_feature_layer") or range(2))
    heads, dim = own.integer("num_attention_heads", 16), own.integer("head_dim", 72)
    query, key, inner = heads * dim, own.integer("num_key_value_heads", heads) * dim, taps * hidden
    wide, pooled = own.integer("hidden_size", hidden), dense(inner, query) + 2 * dense(inner, key)
    gated = own.integer("intermediate_size", 18944) * (2 * wide + own.integer("text_hidden_size", 3584))
    return int(pooled + dense(query, wide) + gated)


def docling(config: Config, around: Around, hidden: int) -> int:
    """Granite Docling: two paths that merge patches by a factor each, also behind every tapped layer."""
    tower, out = around.tower, around.count("out_hidden_size", config.count("hidden_size"))
    factor = tower.integer("scale_factor", 4)
    taps = len(tower.items("deepstack_visual_indexes") or [])
    sides = [factor, factor // 2] if tower.flag("use_fine_route") else [factor]
    size = 0
    for merged in (side * side * hidden for side in sides):
        size += merged * out + taps * (2 * merged + two(merged, out, out))
    return int(size + out * out + 2 * hidden + 4 * out)
