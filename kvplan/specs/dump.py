"""A spec as YAML for people: short, small mappings on one line, defaults left out, always in one order."""

from __future__ import annotations

from typing import Any

from kvplan.specs.model import ModelSpec

WIDTH = 100

ORDER = (
    "schema", "name", "family", "aliases", "source", "hidden_size", "vocab_size", "max_context",
    "unstretched_context", "yarn_context",
    "tie_embeddings", "embedding_size", "learned_positions", "dtype", "weights", "kv_format",
    "blocks", "layout", "encoder", "vision", "image_prefixes", "draft",
    "extra_weights", "parameters", "notes",
)  # fmt: skip


def model_yaml(spec: ModelSpec) -> str:
    """YAML that loads back to an equal model."""
    data = model_data(spec)
    lines: list[str] = []
    for key in ORDER:
        if key not in data:
            continue
        value = data[key]
        if key in ("blocks", "source", "encoder", "vision", "draft"):
            lines += [f"{key}:", *_mapping(value, 2)]
        elif key in ("layout", "extra_weights", "notes"):
            lines += [f"{key}:", *(f"  - {_flow(item)}" for item in value)]
        else:
            lines.append(f"{key}: {_flow(value)}")
    return "\n".join(lines) + "\n"


def model_data(spec: ModelSpec) -> dict[str, Any]:
    """The spec as plain data without defaults, ``kind`` kept wherever it tells variants apart."""
    data: dict[str, Any] = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    full: dict[str, Any] = spec.model_dump(mode="json", by_alias=True)
    _keep_kinds(data, full)
    data["schema"] = full["schema"]
    return data


def _keep_kinds(data: Any, full: Any) -> None:
    """``kind`` is a default of its class, so excluding defaults drops it: put it back, in front."""
    if isinstance(data, dict) and isinstance(full, dict):
        if "kind" in full:
            rest = dict(data)
            data.clear()
            data["kind"] = full["kind"]
            data.update({key: value for key, value in rest.items() if key != "kind"})
        for key, value in data.items():
            _keep_kinds(value, full.get(key))
    elif isinstance(data, list) and isinstance(full, list):
        for own, other in zip(data, full, strict=True):
            _keep_kinds(own, other)


def _mapping(data: dict[str, Any], indent: int) -> list[str]:
    pad, lines = " " * indent, []
    for key, value in data.items():
        flow = _flow(value)
        if isinstance(value, dict) and (len(pad) + len(key) + 2 + len(flow) > WIDTH or _nested(value)):
            lines += [f"{pad}{_scalar(key)}:", *_mapping(value, indent + 2)]
        else:
            lines.append(f"{pad}{_scalar(key)}: {flow}")
    return lines


def _nested(value: dict[str, Any]) -> bool:
    return any(isinstance(item, dict) for item in value.values())


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    """A YAML scalar; text is quoted unless it can only be read as the same text."""
    if value is None:
        return "null"
    if isinstance(value, (bool, int, float)):
        return str(value).lower()
    text = str(value)
    plain = text.replace("-", "").replace("_", "").replace("/", "").replace(".", "").isalnum()
    words = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}
    if plain and text[0].isalpha() and text.casefold() not in words:
        return text
    import json

    return json.dumps(text, ensure_ascii=False)
