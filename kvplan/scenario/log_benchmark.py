"""Results of serving benchmarks: ``vllm bench serve`` (``benchmark_serving.py``), SGLang's ``bench_serving``.

Both write lists with one entry a request: lengths, times to first token, gaps between tokens, errors. vLLM's
file is one object, SGLang appends a line a run. When requests were sent is in newer files of vLLM alone;
otherwise it is drawn as the benchmark draws it, and follows from the client's limit, and the log says so.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from kvplan.errors import DataError
from kvplan.scenario.log_aiperf import refuse_summary
from kvplan.scenario.log_units import check_seconds, whole_answers
from kvplan.scenario.measured import Measured, is_number, measured_row

_OF_A_RUN = frozenset(("ttfts", "itls", "input_lens", "completed", "request_throughput", "output_throughput"))


def is_run(document: Mapping[str, Any]) -> bool:
    """Whether a JSON object is what a benchmark writes of a whole run, with or without its requests."""
    return not _OF_A_RUN.isdisjoint(document)


def served_model(document: Mapping[str, Any]) -> str | None:
    """The model that a benchmark asked for; None where it does not say."""
    server = document.get("server_info")  # what SGLang's server says of itself
    told = server.get("model_path") if isinstance(server, dict) else None
    for found in (document.get("model_id"), told):
        if isinstance(found, str) and found.strip():
            return found
    return None


def served_tp(document: Mapping[str, Any]) -> int | None:
    """On how many GPUs a layer was spread, as SGLang's server says of itself; None where nobody says."""
    server = document.get("server_info")
    found = server.get("tp_size") if isinstance(server, dict) else None
    return found if type(found) is int and found > 0 else None


def _cached(document: Mapping[str, Any], prompts: Sequence[Any], path: str) -> dict[int, dict[str, Any]]:
    """The cached tokens of each request where SGLang's server reports them (``--cache-report``).

    A server that does not report them, or caches nothing, has none of any request: nothing is known then.
    """
    found = document.get("cached_tokens")
    if not isinstance(found, list) or not any(found):
        return {}
    if len(found) != len(prompts):
        raise DataError(f"{len(found)} cached_tokens for {len(prompts)} requests", where=path)
    # Prompts are counted by the client, and may be shorter than what the server made of them.
    return {
        index: {"cached_tokens": min(value, prompt)}
        for index, (value, prompt) in enumerate(zip(found, prompts, strict=True))
        if is_number(value) and is_number(prompt)
    }


def _prefills(document: Mapping[str, Any], count: int, path: str) -> dict[int, dict[str, Any]]:
    """What vLLM's server says it took from scheduling a request to its first token.

    With ``--enable-per-request-metrics`` it does, and the benchmark keeps that in seconds, under a name that
    promises more: ``server_queue_times``, from the scheduler's taking a request in to its scheduling it, is
    not within ``server_ttfts``, and waiting for the scheduler to take it in is in neither.
    """
    found = document.get("server_ttfts")
    if not isinstance(found, list):
        return {}
    if len(found) != count:
        raise DataError(f"{len(found)} server_ttfts for {count} requests", where=path)
    return {index: {"prefill": value} for index, value in enumerate(found) if is_number(value)}


def _rests(whole: Sequence[Any], ttfts: object, path: str) -> list[list[float]]:
    """What an answer took after its first token, where only that and the whole is said."""
    if not isinstance(ttfts, list) or len(ttfts) != len(whole):
        raise DataError(f"{len(whole)} latencies without a time to first token each", where=path)
    return [
        [max(end - first, 0.0)] if is_number(end) and is_number(first) and first else []
        for end, first in zip(whole, ttfts, strict=True)
    ]


def read_benchmark(
    document: Mapping[str, Any], path: str, notes: list[str], max_in_flight: int | None
) -> tuple[str, list[Measured], int | None]:
    """(format, rows, the client's limit).

    Raises:
        DataError: lists are missing or of different lengths, a number is none, or times are no seconds.
    """
    refuse_summary(document, path)
    lists: dict[str, list[Any]] = {}
    whole = document.get("latencies") if document.get("itls") is None else None
    for name in ("input_lens", "output_lens", "ttfts", "itls"):
        value = document.get(name)
        if name == "itls" and isinstance(whole, list):
            value = _rests(whole, lists["ttfts"], path)
        if not isinstance(value, list):
            raise DataError(
                f"the benchmark result has no list {name!r}", where=path,
                hint="run vllm bench serve with --save-result --save-detailed, or SGLang's bench_serving "
                "with --output-details",
            )  # fmt: skip
        lists[name] = value
    sizes = {name: len(value) for name, value in lists.items()}
    if len(set(sizes.values())) != 1:
        raise DataError(f"lists of different lengths: {sizes}", where=path)
    count = sizes["ttfts"]
    limit = _limit(document, path)
    limit = limit if max_in_flight is None else max_in_flight
    starts = _arrivals(document, lists, limit or None, path, notes)
    errors, cached = document.get("errors"), _cached(document, lists["input_lens"], path)
    prefills = _prefills(document, count, path)
    rows, failed, silent = [], 0, 0
    for index in range(count):
        where = f"{path}: request {index}"
        error = isinstance(errors, list) and index < len(errors) and errors[index]
        # Whoever got no token has no time to one, whatever its output is said to be.
        if error or not lists["output_lens"][index] or not lists["ttfts"][index]:
            failed += 1
            silent += not error and bool(lists["output_lens"][index])
            continue
        gaps = lists["itls"][index]
        numbers = [
            lists["input_lens"][index],
            lists["output_lens"][index],
            lists["ttfts"][index],
            starts[index],
        ]
        if not isinstance(gaps, list) or not all(map(is_number, [*numbers, *gaps])):
            raise DataError("a length or time is not a number", where=where)
        prompt, output, ttft, start = numbers
        values = {"arrival": start, "prompt_tokens": prompt, "output_tokens": output, "ttft": ttft,
                  "e2e": ttft + math.fsum(gaps),
                  **cached.get(index, {}), **prefills.get(index, {})}  # fmt: skip
        rows.append(
            measured_row(
                {name: float(value) for name, value in values.items()}, where, gaps if whole is None else ()
            )
        )
    if silent and not rows:
        raise whole_answers(f"{silent:,} requests has no time, or", path)
    check_seconds(rows, path)
    if failed:
        notes.append(f"{failed:,} failed requests are left out; they loaded the engine all the same")
    sglang = str(document.get("backend", "")).startswith("sglang") and "date" not in document
    vllm = not sglang and ("start_times" in document or "date" in document)
    return ("vllm-bench" if vllm else "sglang-bench"), rows, limit


def _limit(document: Mapping[str, Any], path: str) -> int | None:
    """The ``max_concurrency`` of a benchmark; None where it had none."""
    limit = document.get("max_concurrency")
    if limit is None:
        return None
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise DataError(f"max_concurrency is {limit!r}, not a number of requests", where=path)
    return limit


def _in_turn(lists: Mapping[str, list[Any]], due: Sequence[float], limit: int, path: str) -> list[float]:
    """When a client that keeps ``limit`` in flight sent each request: ``due``, or when another finished."""
    free, starts = [0.0] * min(limit, len(due)), []
    for index, (ttft, gaps) in enumerate(zip(lists["ttfts"], lists["itls"], strict=True)):
        if not isinstance(gaps, list) or not all(map(is_number, seconds := [ttft or 0.0, *gaps])):
            raise DataError("a length or time is not a number", where=f"{path}: request {index}")
        start = max(heapq.heappop(free), due[index])
        starts.append(start)
        heapq.heappush(free, start + math.fsum(seconds))
    return starts


def _arrivals(
    document: Mapping[str, Any],
    lists: Mapping[str, list[Any]],
    limit: int | None,
    path: str,
    notes: list[str],
) -> list[Any]:
    count = len(lists["ttfts"])
    starts = document.get("start_times")
    if isinstance(starts, list):
        if len(starts) != count:
            raise DataError(f"{len(starts)} start_times for {count} requests", where=path)
        return starts
    due = _drawn(document, count, limit is not None, path, notes)
    if limit is not None:
        notes.append(f"requests are taken to be sent in turn, {limit} in flight: the file does not say when")
        return list(_in_turn(lists, due, limit, path))
    return list(due)


def _drawn(
    document: Mapping[str, Any], count: int, limited: bool, path: str, notes: list[str]
) -> list[float]:
    """When each request is due: gaps drawn as the benchmarks draw them, stretched to the rate asked for.

    Raises:
        DataError: the file does not say the rate, or no usable one.
    """
    rate, shape = document.get("request_rate"), document.get("burstiness")
    shape = 1.0 if shape is None else shape
    if document.get("ramp_up_strategy") is not None:
        raise DataError(
            "the rate rose during the run, and the file does not say when requests were sent", where=path,
            hint="log arrival times: a vLLM that writes start_times, or a CSV that has them",
        )  # fmt: skip
    if rate in ("inf", math.inf) or (limited and rate is None):
        if not limited:
            notes.append("all requests are sent at once, as request_rate inf says")
        return [0.0] * count
    even = shape in ("inf", math.inf)
    if not is_number(rate) or rate <= 0 or not (even or (is_number(shape) and shape > 0)):
        raise DataError(
            "the file says neither start_times nor request_rate as a number "
            f"(rate {rate!r}, burstiness {shape!r})",
            where=path, hint="log arrival times: a vLLM that writes start_times, or a CSV that has them",
        )  # fmt: skip
    notes.append(f"arrival times are drawn at {rate:g} requests/s: the file does not say them")
    stream, clock, drawn = random.Random("engine-log/arrivals"), 0.0, []
    for _ in range(count):
        drawn.append(clock)
        clock += 1.0 if even else stream.gammavariate(shape, 1.0)
    if rate * clock <= 0.0:
        raise DataError(
            f"no arrival times can be drawn at request_rate {rate!r} and burstiness {shape!r}", where=path,
            hint="log arrival times: a vLLM that writes start_times, or a CSV that has them",
        )  # fmt: skip
    return [moment * count / (rate * clock) for moment in drawn]
