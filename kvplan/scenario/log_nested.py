"""What a logged JSON object holds by plain names, that of objects and lists within it included.

What an object says at its top counts first. Of its numbers of tokens those in the server's own report
(``usage``) come before those that clients counted by tokenizing the answer again, which may be fewer. Lists
of moments at which tokens came say when the first and the last did.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kvplan.scenario.measured import is_number
from kvplan.traces.columns import COUNTS, counted, plain_name

FIRST, LAST = "first_token_time", "last_token_time"
"""Names under which the ends of a list of moments are found."""
TOKENS = "token_moments"
"""That under which the list is."""
_USAGE = ("usage", "server_usage")
_TOKEN_TIMES = frozenset(
    ("output_token_times", "token_times", "token_timestamps", "chunk_times", "reasoning_chunk_times")
)
_SCHEDULED = "time_to_first_token_ms"
_VLLM_METRICS = frozenset((_SCHEDULED, "generation_time_ms", "queue_time_ms"))
"""Of the ``metrics`` in an answer of vLLM's server (``--enable-per-request-metrics``)."""
_DEPTH = 5


def named(item: Mapping[str, Any]) -> dict[str, Any]:
    """An object by plain names, with what it holds farther inside where it has no such name itself."""
    own = {plain_name(str(key)): value for key, value in item.items()}
    parts = list(_objects(item))
    found = {
        plain_name(str(key)): value
        for part in item.values()
        if isinstance(part, dict)
        for key, value in _server_times(part).items()
    }
    if parts:
        for quantity in COUNTS:
            if not counted(quantity, list(own)):
                found |= _count(quantity, parts)
                continue
            for column in counted(quantity, list(found)):
                del found[column.name]
    return found | token_ends(item) | token_moments(item) | own


def token_ends(item: Mapping[str, Any]) -> dict[str, float]:
    """``FIRST`` and ``LAST`` of an object that lists when its tokens came, itself or within; else nothing."""
    moments = [edge for each in _token_times(item) for edge in (each[0], each[-1]) if is_number(edge)]
    return {FIRST: min(moments), LAST: max(moments)} if moments else {}


def token_moments(item: Mapping[str, Any]) -> dict[str, list[float]]:
    """``TOKENS``: the longest of such lists that reaches from the first token to the last."""
    ends = token_ends(item).values()
    whole = [
        each for each in _token_times(item) if all(map(is_number, each)) and [each[0], each[-1]] == [*ends]
    ]
    return {TOKENS: max(whole, key=len)} if whole else {}


def _token_times(item: Mapping[str, Any]) -> list[list[Any]]:
    return [
        value
        for part in (item, *(part for _, part in _objects(item)))
        for key, value in part.items()
        if isinstance(value, list) and value and plain_name(str(key)) in _TOKEN_TIMES
    ]


def _server_times(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """An object within; of vLLM's ``metrics`` of a request the one time that is not its client's.

    Its ``time_to_first_token_ms`` counts from when the request was scheduled.
    """
    return {"server_ttft_ms": part[_SCHEDULED]} if part.keys() >= _VLLM_METRICS else part


def _count(quantity: str, parts: list[tuple[bool, Mapping[str, Any]]]) -> dict[str, Any]:
    """A number of tokens that the object does not say at its top, under its own name."""
    for _, part in sorted(parts, key=lambda each: not each[0]):
        values = {plain_name(str(key)): value for key, value in part.items()}
        said = [values[column.name] for column in counted(quantity, list(values))]
        if said and said[0] is not None:
            return {quantity: said[0]}
    return {}


def _objects(
    item: Mapping[str, Any], depth: int = _DEPTH, reported: bool = False
) -> Iterator[tuple[bool, Mapping[str, Any]]]:
    """Objects within, the outer ones first, and whether each is (within) what the server reported."""
    inner = [(reported or key in _USAGE, value) for key, value in item.items() if isinstance(value, dict)]
    yield from inner
    if depth > 1:
        for said, value in inner:
            yield from _objects(value, depth - 1, said)
