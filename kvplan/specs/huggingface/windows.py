"""Windows: which layers have one, and how wide it is, where no list of kinds says so."""

from __future__ import annotations

from typing import Any

from kvplan.specs.base import MAX_COUNT
from kvplan.specs.huggingface import families
from kvplan.specs.huggingface.config import Config

REFERENCE = "reference_sliding_attention"


def windowed(config: Config, layers: int) -> list[str] | None:
    """Sliding windows without a list: a pattern, a flag, or all layers."""
    window = config.get("sliding_window")
    if is_none(window) or config.model_type in families.IGNORED_WINDOW:
        return None
    if config.get("use_sliding_window") is False or windows_answers(config):
        return None
    if config.optional("kv_lora_rank", least=0) and not config.has("swa_num_attention_heads"):
        return None  # one window beside latents is carried along, and no engine reads it
    own = config.defaults
    counts = own is None or "max_window_layers" in own  # other classes pass over where windows begin
    if config.model_type in families.FLAGGED_WINDOW or (counts and config.has("max_window_layers")):
        if not config.flag("use_sliding_window"):
            return None
        first = config.integer("max_window_layers", 0, least=0) if counts else 0
        if config.model_type == "smollm3":  # windows are where positions are not
            return ["full" if rotary else "sliding" for rotary in rotary_layers(config, layers)]
        if config.model_type == "qwen2_moe":  # its class counts from the bottom, and skips every other layer
            return ["full" if index % 2 or index >= first else "sliding" for index in range(layers)]
        return ["sliding" if index >= first else "full" for index in range(layers)]
    pattern = config.get("sliding_window_pattern")
    if isinstance(pattern, str) and pattern:
        letters = {"L": "sliding", "G": "full"}
        return [letters.get(pattern[index % len(pattern)].upper(), "full") for index in range(layers)]
    inner, around = config.model_type, config.model_type.removesuffix("_text")
    period, where = families.PERIODS.get(inner) or families.PERIODS.get(around) or (0, "last")
    for key in ("sliding_window_pattern", "_sliding_window_pattern", "global_attn_every_n_layers"):
        period = config.integer(key, period or None, least=0) or 0
        if config.has(key):
            break
    if not period:
        return ["sliding"] * layers
    kinds = _dense_prefix(config, layers)
    rest = layers - len(kinds)
    kinds += ["full" if _is_full(index, rest, period, where) else "sliding" for index in range(rest)]
    if config.model_type in families.LAST_LAYER_FULL or config.model_type == "beam":
        kinds[-1] = "full"
    return kinds


def _dense_prefix(config: Config, layers: int) -> list[str]:
    """Command A's layers below those with experts: a period of their own, 1 where unsaid; then the other."""
    unsaid = 1 if config.model_type == "cohere2_moe" else 0
    own = config.integer("prefix_dense_sliding_window_pattern", unsaid, least=0)
    below = config.integer("first_k_dense_replace", 0, least=0) if own else 0
    return ["sliding" if (index + 1) % own else "full" for index in range(min(below, layers))]


def _is_full(index: int, layers: int, period: int, where: str) -> bool:
    if where == "first":
        return index % period == 0
    if where == "end":
        return (layers - 1 - index) % period == 0
    if where == "first and last":
        return index == 0 or (index + 1) % period == 0
    return (index + 1) % period == 0


def window_cycle(config: Config) -> list[Any]:
    """The windows of the layers in a list that is repeated; empty where there is one window or none."""
    for key in ("interleaved_sliding_window", "sliding_window"):
        cycle = config.get(key)
        if isinstance(cycle, list):
            return config.items(key) or []
    return []


def window_of_pair(config: Config, pair: object) -> int | None:
    """Tokens of a window ``[before, after]``, itself included; ``None`` where ``before`` is no limit (-1).

    Raises:
        SpecError: not two whole numbers.
    """
    good = isinstance(pair, list) and len(pair) == 2 and all(type(item) is int for item in pair)
    if not good or not -1 <= pair[0] < MAX_COUNT:  # type: ignore[index]
        raise config.error("expected for every layer the tokens before and after it", "window_sizes")
    return pair[0] + 1 if pair[0] > 0 else None  # type: ignore[index]


def windows_answers(config: Config) -> bool:
    """Whether windows are of generated tokens only, and prompts stay (reference sliding-window attention).

    vLLM gives such layers room for the whole context, and frees what falls out of the window of an answer.
    """
    names = {config.model_type, str(config.top.get("model_type"))}
    listed = config.get("layer_types")
    named = any(name.replace("-", "_").startswith("unlimited_ocr") for name in names)
    return named or config.has("rswa_window") or (isinstance(listed, list) and REFERENCE in listed)


def says_no_window(config: Config) -> bool:
    """Whether the file itself says that there is no window, and has none per layer."""
    listed = any(config.has(key) for key in ("sliding_windows", "window_sizes"))
    return (
        config.spelt("sliding_window") in config.data and is_none(config.get("sliding_window")) and not listed
    )


def is_none(window: object) -> bool:
    """Whether a window is none at all: null, false, or a number below one."""
    return window is None or window is False or (isinstance(window, (int, float)) and window < 1)


def rotary_layers(config: Config, layers: int) -> list[bool]:
    """Which layers have rotary positions: a list, else all but every fourth (or another) one."""
    rope = config.items("no_rope_layers")
    if not rope:
        step = config.integer("no_rope_layer_interval", 4)
        rope = [int((index + 1) % step != 0) for index in range(layers)]
    return [bool(rope[index % len(rope)]) for index in range(layers)]
