"""A quantization scheme applied to the components of the layers that are there.

A component is given the format that most of its layers have; where they differ much, a note says so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from kvplan.specs.huggingface.modules import BESIDE, IN_LAYER, matches, names_in_layer, owners
from kvplan.specs.huggingface.schemes import Scheme, read_scheme
from kvplan.specs.model import Block, Component

FP4 = ("fp4", "mxfp4")
"""What DeepSeek-V4 calls the dtype of its experts, inside the quantization configuration or beside it."""


def component_formats(
    raw: Mapping[str, Any], stack: Sequence[Block], base: str, expert_dtype: str
) -> tuple[dict[Component, str], list[str]]:
    """``(format of every component that the model has, notes)``; ``base`` is that of what is left alone."""
    scheme = read_scheme(raw)
    notes = list(scheme.notes)
    found: dict[Component, str] = {}
    for component in IN_LAYER:
        if layers := owners(component, stack):
            formats = Counter(_in_layer(scheme, component, layer, base) for layer in layers)
            found[component], many = formats.most_common(1)[0]
            if many < 0.9 * len(layers):
                notes.append(
                    f"{component} is {found[component]} in {many} of {len(layers)} layers; sized so in all"
                )
    for component, names in BESIDE.items():
        found[component] = _beside(scheme, component, names, base)
    if "experts" in found and not scheme.named and str(raw.get("expert_dtype", expert_dtype)) in FP4:
        found["experts"] = "mxfp4"
    return found, notes


def _in_layer(scheme: Scheme, component: Component, layer: int, base: str) -> str:
    names = tuple(names_in_layer(component, layer))
    for pattern, form in scheme.named:
        if _means(pattern, names):
            return form
    if component == "router" or scheme.default is None:
        return base if component == "router" else scheme.instead or base
    if any(_means(pattern, names) for pattern in scheme.ignored):
        return base
    # MXFP4 of GPT-OSS is a format of experts alone.
    return scheme.default if scheme.default != "mxfp4" or component == "experts" or scheme.linear else base


def _beside(scheme: Scheme, component: Component, names: tuple[str, ...], base: str) -> str:
    for pattern, form in scheme.named:
        if _means(pattern, names):
            return form
    left_alone = any(_means(pattern, names) for pattern in scheme.ignored)
    if component == "draft" and not left_alone:
        return scheme.default or scheme.instead or base
    if component == "lm_head" and scheme.linear and not left_alone:
        return scheme.default or base
    return base


def _means(pattern: str, names: Sequence[str]) -> bool:
    """Whether a pattern means any of some modules; one with a number is tested only where that number is."""
    number = re.search(r"layers\.(\d+)\b", pattern)
    if number is not None and f"layers.{number.group(1)}." not in names[0]:
        return False
    if pattern.startswith(".") and pattern.endswith("."):
        return any(pattern in name for name in names)
    return any(matches(pattern, name) for name in names)
