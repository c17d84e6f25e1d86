"""Which kind each layer is: the many ways in which configurations say so, brought to one list.

Kinds: ``full sliding chunked indexed csa hca linear hybrid hybrid_sliding conv cross none``. Hybrid layers
have attention and state side by side; ``none`` is a layer without either (MLP or experts only).
"""

from __future__ import annotations

import re
from typing import Any

from kvplan.specs.huggingface import families
from kvplan.specs.huggingface.compression import ratio_kinds
from kvplan.specs.huggingface.config import Config
from kvplan.specs.huggingface.indexers import sparse_regions
from kvplan.specs.huggingface.overrides import kinds_of_blocks
from kvplan.specs.huggingface.own_layers import no_chunks, own_kinds
from kvplan.specs.huggingface.windows import (
    is_none,
    says_no_window,
    window_cycle,
    window_of_pair,
    windowed,
)
from kvplan.specs.model import MAX_LAYERS

KINDS = {
    "full": "full full_attention attention global global_attention softmax attn * dense_attention "
    "reference_sliding_attention minicpm4 minicpm standard",
    "sliding": "sliding sliding_attention local local_attention swa sliding_window window_attention "
    "sliding_window_attention local_sliding",
    "chunked": "chunked chunked_attention",
    "indexed": "indexed_attention deepseek_sparse_attention qwen_sparse_attention minimax_m3_sparse "
    "sparse_attention",
    "csa": "compressed_sparse_attention",
    "hca": "heavily_compressed_attention",
    "linear": "linear linear_attention mamba mamba2 m recurrent rglru lightning_attention kda gdn "
    "lightning lightning_attn lightning-attn gated_deltanet gated_delta_net ssm jet",
    "hybrid": "hybrid",
    "hybrid_sliding": "hybrid_sliding",
    "conv": "conv short_conv",
    "none": "none dummy mlp moe - e no_op",
}
STATE_FIELDS = re.compile(r"(mamba|ssm|linear)_.*(head|state|conv|rank|groups|expand)")
"""Fields that only layers with a state have."""

SAID_ONCE_MORE = frozenset(
    {
        "interleaved_sliding_window", "sliding_window_pattern", "hybrid_layer_ids", "full_attention_interval",
        "global_attn_every_n_layers", "attention_chunk_size", "attn_layer_period", "attn_layer_offset",
    }
)  # fmt: skip
"""Other ways to say which layers are which: beside a list of kinds nobody reads them."""

_BY_NAME = {name: kind for kind, names in KINDS.items() for name in names.split()}


def layer_kinds(config: Config, layers: int) -> list[str]:
    """The kind of every layer.

    Raises:
        SpecError: a kind that is not known, or a list that contradicts the number of layers.
    """
    for reader in (_listed, _composed, _patterned, _periodic, own_kinds, windowed):
        kinds = reader(config, layers)
        if kinds is not None:
            if config.has("indexer_n_heads") or sparse_regions(config):  # Qwen4 calls sparse layers full
                kinds = ["indexed" if kind == "full" else kind for kind in kinds]
            elif config.model_type.startswith("qwen4") and not config.has("indexer_head_dim"):
                # Without an indexer its sparse layers are full ones in vLLM and SGLang.
                kinds = ["full" if kind == "indexed" else kind for kind in kinds]
            return _shared(config, kinds)
    described = _described_state(config)
    if described is not None:
        raise config.error(
            "this field describes layers with a state, and nothing says which layers they are", described
        )
    return _shared(config, ["full"] * layers)


def _described_state(config: Config) -> str | None:
    """A field that only layers with a state have, and that says something."""
    return next((key for key in config.data if STATE_FIELDS.match(key) and config.has(key)), None)


def number_of_layers(config: Config) -> int:
    """``num_hidden_layers``, or the length of the list or pattern that replaces it."""
    pattern = config.get("hybrid_override_pattern", defaults=False)
    if config.optional("num_hidden_layers", least=0, defaults=False) is None:
        if isinstance(pattern, str) and pattern:
            return len(pattern)
        listed = config.get("layer_types")
        if isinstance(listed, list) and listed:
            return len(listed)
    layers = config.integer("num_hidden_layers", least=0)
    check_layers(config, "num_hidden_layers", layers)
    if config.model_type == "hrm_text":  # two stacks; num_hidden_layers counts passes once both are there
        own = config.optional("num_layers_per_stack")
        return 2 * (check_layers(config, "num_layers_per_stack", own) if own is not None else int(layers))
    if config.model_type.startswith(families.TWO_ATTENTIONS):
        own = config.optional("num_layers", defaults=False)  # num_hidden_layers beside it is twice that
        return 2 * int(own or layers)
    return int(layers)


def check_layers(config: Config, key: str, layers: int) -> int:
    """The number of layers.

    Raises:
        SpecError: none, or more than any model has.
    """
    if layers < 1:
        raise config.error(f"a model needs at least one layer, found {layers}", key)
    if layers > MAX_LAYERS:
        raise config.error(f"{layers} layers is more than any model has", key)
    return layers


def _kind(config: Config, key: str, value: object) -> str:
    kind = _BY_NAME.get(str(value).strip().casefold())
    if kind is None:
        known = ", ".join(sorted(set(KINDS)))
        name = config.architecture or config.model_type
        message = f"unknown kind of layer {str(value)!r} in architecture {name!r}"
        raise config.error(message, key, hint=f"kvplan knows: {known}")
    return kind


def _listed(config: Config, layers: int) -> list[str] | None:
    """One entry per layer, by name."""
    named = config.per_layer("layer_types", layers)
    if named is None:
        named = kinds_of_blocks(config, layers)
    if named is not None:
        config.used |= SAID_ONCE_MORE
        kinds = [_kind(config, "layer_types", item) for item in named]
        if config.get("attention_chunk_size") is None and config.has("sliding_window"):
            kinds = ["sliding" if kind == "chunked" else kind for kind in kinds]  # Rnj
        if no_chunks(config):
            kinds = ["full" if kind == "chunked" else kind for kind in kinds]
        if config.data.get("use_sliding_window") is False or says_no_window(config):
            kinds = ["full" if kind == "sliding" else kind for kind in kinds]
        if config.model_type in families.LAST_LAYER_FULL:
            kinds[-1] = "full"
        return kinds
    cycle = config.items("mixer_types")
    if cycle:  # MiniCPM-SALA
        return [_kind(config, "mixer_types", cycle[index % len(cycle)]) for index in range(layers)]
    cycle = config.items("block_types")
    if cycle:
        return [_recurrent(config, cycle[index % len(cycle)]) for index in range(layers)]
    return None


def _recurrent(config: Config, value: object) -> str:
    kind = _kind(config, "block_types", value)
    # Griffin's attention blocks are always local.
    windowed = config.get("attention_window_size") is not None
    return "sliding" if kind == "full" and windowed else kind


def _composed(config: Config, layers: int) -> list[str] | None:
    """IQuest Q1: a first part, a part that is repeated, and a last one."""
    repeated = config.items("hybrid_layers_types_block")
    if not repeated:
        return None
    times = config.count("num_hybrid_layers_block")
    ends = [config.items(key) or [] for key in ("first_layers_types", "last_layers_types")]
    if len(ends[0]) + times * len(repeated) + len(ends[1]) != layers:
        raise config.error(
            f"{times} times these with what is before and after are not {layers} layers",
            "hybrid_layers_types_block",
        )
    if not config.flag("use_hybrid_layers", True) or not config.flag("use_sliding_window", True):
        return ["full"] * layers
    listed = [*ends[0], *repeated * times, *ends[1]]
    return [_kind(config, "hybrid_layers_types_block", item) for item in listed]


def _patterned(config: Config, layers: int) -> list[str] | None:
    """Strings of letters, lists of numbers, lists of layer indices."""
    pattern = config.get("hybrid_override_pattern")
    if pattern is not None:
        if not isinstance(pattern, str):
            raise config.error("expected a text with a letter per layer", "hybrid_override_pattern")
        if len(pattern) < layers:
            raise config.error(
                f"{len(pattern)} letters contradict {layers} layers", "hybrid_override_pattern"
            )
        return [_kind(config, "hybrid_override_pattern", letter) for letter in pattern[:layers]]
    for key, zero, one in (
        ("hybrid_layer_pattern", "full", "sliding"),
        ("attn_type_list", "linear", "full"),
        ("is_sliding_layers", "full", "sliding"),
    ):
        numbers = config.per_layer(key, layers) if config.has(key) else None
        if numbers is not None and all(item in (0, 1, True, False) for item in numbers):
            config.used.add("attention_chunk_size")  # MiMo-V2's is the window once more
            return [one if item else zero for item in numbers]
    nested = config.sub("sparse_attention_config")
    if nested is not None and nested.has("sparse_attention_freq"):
        numbers = nested.per_layer("sparse_attention_freq", layers) or []
        return ["indexed" if item else "full" for item in numbers]
    ratios = ratio_kinds(config, layers)
    if ratios is not None:
        return ratios
    linear = config.sub("linear_attn_config")
    if linear is not None and linear.has("full_attn_layers"):
        full = linear.items("full_attn_layers") or []  # counted from one
        if any(isinstance(item, bool) or not isinstance(item, int) for item in full):
            raise linear.error("expected numbers of layers", "full_attn_layers")
        return ["full" if index + 1 in full else "linear" for index in range(layers)]
    for key, member, other in (
        ("attn_layer_indices", "full", "linear"),
        ("full_attn_idxs", "full", "conv"),
        ("full_attention_layers", "full", "linear" if _described_state(config) else "sliding"),
        ("hybrid_layer_ids", "hybrid", "linear"),
        ("local_layer_ids", "sliding", "full"),
        ("cross_attention_layers", "cross", "full"),
    ):
        indices = config.items(key)
        if indices is not None and config.model_type.startswith("inkling"):
            return None  # every layer has convolutions beside its attention
        if indices is not None:
            return [member if index in indices else other for index in range(layers)]
    cycle = window_cycle(config)
    if cycle:  # openPangu, PLaMo 3
        config.used.add("sliding_window_pattern")
        return ["full" if is_none(cycle[index % len(cycle)]) else "sliding" for index in range(layers)]
    sizes = config.per_layer("window_sizes", layers) if config.has("window_sizes") else None
    if sizes is not None:
        return ["full" if window_of_pair(config, pair) is None else "sliding" for pair in sizes]
    return _neo(config, layers)


def _neo(config: Config, layers: int) -> list[str] | None:
    """GPT-Neo: local layers mask what is far, but no engine drops it from their caches."""
    pairs = config.items("attention_types")
    for key in ("attention_layers", "attention_types"):
        if not config.items(key):
            continue
        if key == "attention_layers":
            listed = config.per_layer(key, layers) or []
        else:
            listed = _unrolled(config, pairs or [])[:layers]
        for item in listed:
            _kind(config, key, item)
        return ["full"] * layers
    return None


def _unrolled(config: Config, pairs: list[Any]) -> list[Any]:
    """GPT-Neo: ``[[["global", "local"], 12]]`` is the pair of kinds, twelve times."""
    flat: list[Any] = []
    for pair in pairs:
        good = (
            isinstance(pair, list)
            and len(pair) == 2
            and isinstance(pair[0], list)
            and isinstance(pair[1], int)
        )
        if not good or not 0 <= pair[1] <= MAX_LAYERS:
            raise config.error("expected pairs of a list of kinds and a number", "attention_types")
        flat += pair[0] * pair[1]
    return flat


def _periodic(config: Config, layers: int) -> list[str] | None:
    """A period and an offset."""
    period = config.optional("full_attention_interval")
    if period:
        return ["linear" if (index + 1) % period else "full" for index in range(layers)]
    period = config.optional("layer_group_size")
    if period:
        full_from = layers // period * period  # an incomplete last group is full attention
        lightning = config.model_type not in families.KIMI_DELTA
        return [
            "full" if (index + 1) % period == 0 or (lightning and index >= full_from) else "linear"
            for index in range(layers)
        ]
    period = config.optional("attn_layer_period")
    if period:
        offset = config.integer("attn_layer_offset", 0, least=0)
        if config.model_type == "zamba":  # counts from the fourth layer; the third is one in any case
            return [
                "hybrid" if _is_zamba_hybrid(index, period, offset) else "linear" for index in range(layers)
            ]
        return ["full" if index % period == offset else "linear" for index in range(layers)]
    period = config.optional("mb_per_layer")
    if period:
        return _sambay(period, layers)
    period = config.optional("mamba_step", least=2)
    if period and config.flag("mamba_enabled", True):  # PLaMo 2: attention in the middle, or on top of few
        middle = period // 2 if layers > period // 2 else layers - 1
        return ["full" if index % period == middle else "linear" for index in range(layers)]
    return None


def _is_zamba_hybrid(index: int, period: int, offset: int) -> bool:
    return index == 2 or (index > 2 and (index - 3) % period == offset)


def _with_a_source(config: Config, layers: int) -> set[int]:
    """Layers that ``kv_source_layers`` sends to an earlier one, which keeps the cache for both."""
    if not config.has("kv_source_layers"):
        return set()
    sources = config.items("kv_source_layers") or []
    good = len(sources) == layers and all(
        isinstance(source, int) and 0 <= source <= index and sources[source] == source
        for index, source in enumerate(sources)
    )
    if not good:
        raise config.error(
            f"expected for each of {layers} layers the layer whose cache it reads: itself or an earlier one",
            "kv_source_layers",
        )
    return {index for index, source in enumerate(sources) if source != index}


def _sambay(period: int, layers: int) -> list[str]:
    """Phi-4-flash: windows, then one layer of full attention that all later ones read.

    Every ``period``-th layer has a state, or in the upper part only gates what the last of those made.
    """
    half = layers // 2
    upper = half + 2
    attention = ["sliding"] * half + ["full"] * 2 + ["shared"] * (layers - upper)
    mixers = ["linear"] * upper + ["none"] * (layers - upper)
    return [(attention if index % period else mixers)[index] for index in range(layers)]


def _shared(config: Config, kinds: list[str]) -> list[str]:
    """Layers that re-use the KV of an earlier one become ``shared`` (or ``shared_sliding``)."""
    last = config.integer("num_kv_shared_layers", 0, least=0)
    if last >= len(kinds) and last:
        raise config.error(
            f"{last} sharing layers leave none of {len(kinds)} to share from", "num_kv_shared_layers"
        )
    sharing = set(range(len(kinds) - last, len(kinds)))
    sharing |= _with_a_source(config, len(kinds))
    factor = config.integer("cla_share_factor", 1) if config.flag("use_cla") else 1
    if factor > 1:
        sharing |= {index for index in range(len(kinds)) if index % factor}
    return [
        ("shared_sliding" if kind == "sliding" else "shared") if index in sharing else kind
        for index, kind in enumerate(kinds)
    ]
