"""Which spans of a trace lie below which others, by the ids that they and their parents have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

SpanId: TypeAlias = tuple[str | None, str]
"""Ids of the trace and of the span in it."""

_PARENTS = ("parentSpanId", "parent_span_id", "parent_id")


class SpanTree:
    """The ids of the spans seen; memory grows with their number."""

    def __init__(self) -> None:
        self._parents: dict[SpanId, SpanId] = {}

    def add(self, span: dict[str, Any]) -> SpanId | None:
        """The span's id; ``None`` of a span without one."""
        context = span.get("context")
        where = context if isinstance(context, dict) and "span_id" in context else span
        trace = _text(where, ("traceId", "trace_id"))
        own = _text(where, ("spanId", "span_id"))
        if own is None:
            return None
        found = (trace, own)
        parent = _text(span, _PARENTS)
        if parent is not None and parent != own:
            self._parents.setdefault(found, (trace, parent))
        return found

    def first_below(self, begun_s: Mapping[SpanId, float]) -> dict[SpanId, float]:
        """When the earliest of the given spans below a span began, for each that has one, at any depth."""
        found: dict[SpanId, float] = {}
        for span, begin_s in sorted(begun_s.items(), key=lambda item: item[1]):
            parent = self._parents.get(span)
            while parent is not None and parent not in found:  # ids of a hostile file may go in circles
                found[parent] = begin_s
                parent = self._parents.get(parent)
        return found


def trace_of(span: dict[str, Any]) -> str | None:
    """The id of the trace that a span belongs to."""
    context = span.get("context")
    found = _text(span, ("traceId", "trace_id"))
    return found if found is not None or not isinstance(context, dict) else _text(context, ("trace_id",))


def _text(fields: dict[str, Any], names: tuple[str, ...]) -> str | None:
    return next((fields[name] for name in names if isinstance(fields.get(name), str) and fields[name]), None)
