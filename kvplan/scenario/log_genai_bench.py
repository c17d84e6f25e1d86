"""Serving runs as genai-bench writes them: a file for each traffic scenario and number of clients.

Requests have durations and no moments: each of ``num_concurrency`` clients sends when it has been answered.
The file says the unit of its times where its version has a choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvplan.errors import DataError

REQUESTS, SUMMARY, UNIT = "individual_request_metrics", "aggregated_metrics", "_time_unit"
_TIMES = frozenset(("ttft", "tpot", "e2e_latency", "output_latency"))


def is_genai_bench(document: object) -> bool:
    """Whether a JSON object is what genai-bench writes of one run."""
    return (
        isinstance(document, dict)
        and isinstance(document.get(REQUESTS), list)
        and isinstance(document.get(SUMMARY), dict)
    )


def genai_bench_requests(document: Mapping[str, Any], path: str) -> tuple[list[Any], int | None]:
    """(requests, their times named with the unit; how many clients there were, None where nobody says).

    Raises:
        DataError: the number of clients or the unit is none.
    """
    unit, clients = document.get(UNIT, "s"), document[SUMMARY].get("num_concurrency")
    if unit not in ("s", "ms"):
        raise DataError(f"{UNIT} is {unit!r}, not s or ms", where=path)
    if clients is not None and (type(clients) is not int or clients < 1):
        raise DataError(f"num_concurrency is {clients!r}, not a number of clients", where=path)
    return [
        {f"{key}_{unit}" if key in _TIMES else key: value for key, value in item.items()}
        if isinstance(item, dict)
        else item
        for item in document[REQUESTS]
    ], clients
