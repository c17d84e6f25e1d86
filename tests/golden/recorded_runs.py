"""Runs of released engines that stand beside the tests with all their options and requests."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kvplan.engine.recorder import RequestRow
from kvplan.engine.router import ReplicaView
from kvplan.traces.request import Request, TokenRuns, count_tokens

RECORDED = Path(__file__).parent / "recorded"


def recordings(name: str, which: str = "runs") -> list[dict[str, Any]]:
    with gzip.open(RECORDED / name, "rt", encoding="utf-8") as handle:
        return json.load(handle)[which]


def request(name: str, arrival_s: float, prompt: list[Any], output: list[Any], priority: int) -> Request:
    asked: TokenRuns = tuple((start, length) for start, length in prompt)
    answer: TokenRuns = tuple((start, length) for start, length in output)
    return Request(name, arrival_s, asked, count_tokens(asked), answer, count_tokens(answer), priority)


def digest(lines: Iterator[str] | list[str]) -> str:
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def digest_of_rows(rows: Iterable[RequestRow]) -> str:
    """Of what SGLang's runs are recorded with: when each request got what, cached tokens, preemptions."""
    table = [
        [row.id, row.scheduled_s, row.first_token_s, row.finish_s, row.cached_tokens, row.preemptions]
        for row in rows
    ]
    return hashlib.sha256(json.dumps(table).encode()).hexdigest()


class Dealt:
    """A router that deals requests to ranks as recorded."""

    def __init__(self, ranks: dict[str, int]) -> None:
        self.ranks = ranks

    def choose(self, request: Request, replicas: Sequence[ReplicaView]) -> int:
        return self.ranks[request.id]


class Way:
    """A link of so many seconds, and so many per page."""

    def __init__(self, latency_s: float, page_s: float) -> None:
        self.latency_s = latency_s
        self.page_s = page_s

    def seconds(self, size: int, operations: int = 1) -> float:
        assert operations == 1
        return self.latency_s + size * self.page_s if size else 0.0
