"""Which kind each layer is where only the model's own class says so: the configuration lists nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kvplan.specs.huggingface import families
from kvplan.specs.huggingface.config import Config
from kvplan.specs.huggingface.windows import rotary_layers

Kinds = Callable[[Config, int], list[str]]
"""Of a configuration and its number of layers."""


def own_kinds(config: Config, layers: int) -> list[str] | None:
    """The kinds that the class of this model type makes by itself; ``None``: nothing special is known."""
    model_type = config.model_type
    own = _OF_TYPE.get(model_type)
    if own is None:
        own = next((kinds for start, kinds in _OF_FAMILY.items() if model_type.startswith(start)), None)
    if own is None and config.has("attention_chunk_size"):
        own = _llama4
    return own(config, layers) if own else None


def _all(kind: str) -> Kinds:
    return lambda config, layers: [kind] * layers


def _where(kind: str, holds: Callable[[int, int], bool], other: str) -> Kinds:
    """``kind`` in the layers of which ``holds(index, layers)`` is true, ``other`` elsewhere."""
    return lambda config, layers: [kind if holds(index, layers) else other for index in range(layers)]


def _inkling(config: Config, layers: int) -> list[str]:
    local = config.items("local_layer_ids")
    return [
        "hybrid_sliding" if (index in local if local is not None else (index + 1) % 6) else "hybrid"
        for index in range(layers)
    ]


def _lfm3(config: Config, layers: int) -> list[str]:
    row = ("sliding", "conv", "full", "conv")
    return ["conv" if index == 0 else row[index % 4] for index in range(layers)]


def _dory(config: Config, layers: int) -> list[str]:
    mixers = ("sliding", "sliding", "sliding", "full")
    return ["none" if index % 2 else mixers[index // 2 % 4] for index in range(layers)]


def no_chunks(config: Config) -> bool:
    """Whether a file turns local chunks off: its layers are full then, as in vLLM's class of Llama 4."""
    return "attention_chunk_size" in config.data and config.get("attention_chunk_size") in (None, 0)


def _llama4(config: Config, layers: int) -> list[str]:
    if no_chunks(config):
        return ["full"] * layers
    return ["chunked" if rotary else "full" for rotary in rotary_layers(config, layers)]


_OF_TYPE: Mapping[str, Kinds] = {
    **dict.fromkeys(("falcon_h1", "zaya"), _all("hybrid")),
    **dict.fromkeys(("mamba", "mamba2", "falcon_mamba", "xlstm", *families.RWKV), _all("linear")),
    # What their class makes of a list that is null or absent.
    **dict.fromkeys(("granitemoehybrid", "bamba"), _all("linear")),
    "minimax": _where("full", lambda index, layers: index % 2 == 0, "linear"),
    "kimi_linear": _where("full", lambda index, layers: index > 0 and index % 4 == 0, "linear"),
    "lfm3": _lfm3,
    "dory": _dory,
    "flint": _where(
        "full", lambda index, layers: index < 2 or index % 4 == 1 or index == layers - 1, "sliding"
    ),
    "deepseek_v4": _where("csa", lambda index, layers: index > 2 and index % 2 == 1, "hca"),
}
_OF_FAMILY: Mapping[str, Kinds] = {
    "glm5_next": _where("indexed", lambda index, layers: index % 4 == 3, "linear"),
    "inkling": _inkling,
    "dots3_note": _where("indexed", lambda index, layers: index < 2 or index % 4 == 1, "sliding"),
    "llama4": _llama4,
}
