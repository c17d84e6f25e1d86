"""The runs in a JSON text: one document, or a value a line, each with one run or a list of them.

A run is the object that a benchmark writes of it, or the list of its requests. Benchmarks append a line a
run (SGLang's ``bench_serving``, vLLM's ``--append-result``), sweeps write them into one report (GuideLLM),
phases of a run are numbered (aiperf).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, TypeAlias

from kvplan.errors import DataError
from kvplan.scenario.log_aiperf import is_aiperf, phases
from kvplan.scenario.log_benchmark import is_run
from kvplan.scenario.log_genai_bench import is_genai_bench
from kvplan.scenario.log_table import is_record
from kvplan.traces.columns import served

RunDocument: TypeAlias = dict[str, Any] | list[Any]
"""What a benchmark writes of a run, or its requests."""
EXAMPLE = ("start_s", "prompt_tokens", "output_tokens", "ttft_s", "e2e_s")
"""Names that a log of one's own may use."""
_DEPTH = 6


def runs_in(text: str, path: str, notes: list[str]) -> list[RunDocument]:
    """The runs of the text, in order; one at least, which may still turn out to be none.

    Raises:
        DataError: the text is no JSON, or lines of something else.
    """
    document = _parsed(text, path, notes)
    if isinstance(document, list):
        return _of_list(document)
    if isinstance(document, dict):
        if _is_whole(document):
            return [document]
        if is_record(document) or is_aiperf(document):
            return _of_list([document])
        found = list(_within(document, notes))
        if len(found) == 1 and isinstance(found[0], list):
            notes.append("the one list of requests in the file is read, and nothing else of it")
        return found or [document]
    raise DataError("not a benchmark result", where=path)


def _parsed(text: str, path: str, notes: list[str]) -> Any:
    try:
        return json.loads(text, parse_constant=_constant)
    except RecursionError as exc:
        raise DataError("not a benchmark result: nested too deep", where=path) from exc
    except ValueError as exc:
        lines = _lines(text, notes)
        if not lines:
            cut = getattr(exc, "pos", 0) >= len(text.rstrip()) - 1
            raise DataError(
                f"not JSON: {exc}", where=path, hint="the file is cut short: copy it whole" if cut else None
            ) from exc
        if all(is_record(line) or is_aiperf(line) for line in lines) or all(map(_is_summed, lines)):
            return lines
        raise DataError(
            "lines of JSON that are neither requests nor runs", where=path,
            hint=f"a request has its lengths and times under names like {', '.join(EXAMPLE)}",
        ) from exc  # fmt: skip


def _lines(text: str, notes: list[str]) -> list[Any]:
    """The values of a text that holds one on each line, the last of which may be cut short; else none."""
    lines = [line for line in text.splitlines() if line.strip()]
    found: list[Any] = []
    for index, line in enumerate(lines):
        try:
            found.append(json.loads(line, parse_constant=_constant))
        except (ValueError, RecursionError):
            if index + 1 < len(lines) or text.endswith("\n"):
                return []
            if found:
                notes.append("the last line is cut short and left out, as of a benchmark that was stopped")
    return found


def _of_list(document: list[Any]) -> list[RunDocument]:
    if document and all(map(_is_summed, document)):
        return list(document)
    if document and is_aiperf(document[0]):
        return list(phases(document))
    return [document]


def _is_whole(document: dict[str, Any]) -> bool:
    """Whether an object is one run with its requests in lists."""
    return isinstance(document.get("input_lens"), list) or is_genai_bench(document)


def _is_summed(document: Any) -> bool:
    """Whether a value is what a benchmark writes of a run, with or without its requests."""
    return (
        isinstance(document, dict) and not is_record(document) and (is_run(document) or _is_whole(document))
    )


def _within(document: object, notes: list[str], depth: int = _DEPTH) -> Iterator[RunDocument]:
    """Runs anywhere in a JSON document.

    Requests that a report lists as failed or unfinished beside those that went well are counted in ``notes``.
    """
    if isinstance(document, list):
        if document and all(map(is_record, document)):
            yield document
        elif depth:
            for item in document:
                yield from _within(item, notes, depth - 1)
    elif isinstance(document, dict) and _is_whole(document):
        yield document
    elif isinstance(document, dict) and depth:
        for _, item in served(document, notes):
            yield from _within(item, notes, depth - 1)


def _constant(name: str) -> float | None:
    """For ``json.loads``: infinity is a rate, NaN is no value.

    Raises:
        ValueError: minus infinity.
    """
    if name == "Infinity":
        return math.inf
    if name == "NaN":
        return None
    raise ValueError(f"{name} is not a number")
