"""A front end, chunk by chunk: a queue of requests and messages, one slot a stream, one thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Message(NamedTuple):
    """What the engine tells after a step: when, and whose outputs, in the order of the batch."""

    ended_s: float
    streams: tuple[str, ...]


class Written(NamedTuple):
    """When requests reach the engine; by stream, when each of its outputs is written; streams of each round."""

    admitted_s: dict[str, float]
    outputs_s: dict[str, list[float]]
    rounds: list[int]


def front_end(
    sent: Sequence[tuple[str, float, int]],
    messages: Sequence[Message],
    service_s: Callable[[int], float],
    output_s: float,
    chunk_s: float,
) -> Written:
    """Requests ``(id, when, prompt tokens)`` and messages, both in order of time, worked on one by one."""
    coming, told = list(sent), list(messages)
    admitted: dict[str, float] = {}
    outputs: dict[str, list[float]] = {}
    rounds = []
    free_s = 0.0
    while coming or told:
        if coming and (not told or coming[0][1] <= told[0].ended_s):
            name, sent_s, tokens = coming.pop(0)
            free_s = admitted[name] = max(free_s, sent_s) + service_s(tokens)
            continue
        begun_s = max(free_s, told[0].ended_s)
        slots: dict[str, int] = {}
        count = 0
        while told and told[0].ended_s <= begun_s:
            streams = told.pop(0).streams
            count += len(streams)
            for name in streams:
                slots.setdefault(name, len(slots))
            for name in streams:
                written_s = begun_s + output_s * count + chunk_s * (slots[name] + 1)
                outputs.setdefault(name, []).append(written_s)
        rounds.append(len(slots))
        free_s = begun_s + output_s * count + chunk_s * len(slots)
    return Written(admitted, outputs, rounds)


def late_s(written: Mapping[str, Sequence[float]], name: str) -> tuple[float, float]:
    """When a stream's first and last output are written."""
    return written[name][0], written[name][-1]
