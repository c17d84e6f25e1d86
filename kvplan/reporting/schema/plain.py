"""What a schema leaves open - scenarios, values that are varied - as plain JSON of bounded depth."""

import json
from typing import Any

MAX_DEPTH = 32
"""A scenario is a handful of levels deep."""


def check_plain(node: Any) -> None:
    """Refuse what JSON cannot say, or says too deep.

    Raises:
        ValueError: no plain JSON in Unicode, or nested more than ``MAX_DEPTH`` deep.
    """
    try:
        json.dumps(node, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise ValueError(f"not plain JSON: {exc}") from exc
    if depth(node) > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")


def depth(node: Any) -> int:
    """Levels of containers, counted level by level so that depth cannot exhaust the stack."""
    levels, level = 0, [node]
    while level := [child for item in level if isinstance(item, (dict, list)) for child in _children(item)]:
        levels += 1
    return levels


def _children(container: dict[str, Any] | list[Any]) -> list[Any]:
    return list(container.values()) if isinstance(container, dict) else container
