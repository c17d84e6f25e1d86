"""Which column is what, by the names that tools, logs and spreadsheets write; and the unit a name says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

COUNTS = {
    "prompt_tokens": ("prompt_tokens", "input_tokens", "input_len", "prompt_len", "num_prompt_tokens",
                      "num_prefill_tokens", "isl", "num_input_tokens", "number_input_tokens", "prompt_length",
                      "input_length", "input_sequence_length", "input_toks", "prompt_toks", "context_tokens",
                      "request_tokens", "prompt_size", "prompt_token_count", "input_token_count",
                      "input_tokens_total", "input_size", "context_length", "context_len", "prefill_tokens",
                      "n_prompt_tokens", "n_input_tokens", "num_context_tokens", "llm_token_count_prompt",
                      "gen_ai_usage_input_tokens", "gen_ai_usage_prompt_tokens", "tokens_in", "in_tokens",
                      "prefill_length", "request_length", "prompt_tokens_count", "contexttokens"),
    "output_tokens": ("output_tokens", "completion_tokens", "output_len", "generated_tokens",
                      "num_generation_tokens", "num_decode_tokens", "osl", "num_output_tokens",
                      "number_output_tokens", "output_length", "output_sequence_length", "output_toks",
                      "completion_toks", "response_tokens", "token_size", "output_size",
                      "completion_token_count", "output_token_count", "generation_tokens", "decode_tokens",
                      "completion_len", "completion_length", "response_len", "response_length",
                      "n_output_tokens", "n_completion_tokens", "num_completion_tokens",
                      "num_generated_tokens", "generation_len", "generation_length", "gen_len", "gen_tokens",
                      "llm_token_count_completion", "gen_ai_usage_output_tokens",
                      "gen_ai_usage_completion_tokens", "tokens_out", "out_tokens", "decode_length",
                      "completion_tokens_count", "generatedtokens"),
    "cached_tokens": ("cached_tokens", "num_cached_tokens", "cached_prompt_tokens", "prompt_cached_tokens",
                      "num_cached_prompt_tokens", "cached_input_tokens", "prompt_cache_hit_tokens"),
}  # fmt: skip
ARRIVALS = ("arrival", "arrival_time", "start", "start_time", "request_time", "timestamp", "submit_time",
            "request_start", "queued_ts", "arrived_at", "arrival_timestamp", "request_start_time",
            "start_ts", "sent_at", "send_time", "created_at")  # fmt: skip
UNITS = {"": 1.0} | {
    f"_{name}": factor
    for factor, names in (
        (1.0, ("s", "sec", "secs", "second", "seconds")), (1e-3, ("ms", "msec", "millis", "milliseconds")),
        (1e-6, ("us", "usec", "micros", "microseconds")), (1e-9, ("ns", "nsec", "nanos", "nanoseconds")),
    )
    for name in names
}  # fmt: skip
"""How a name ends that says its unit, and the seconds that 1 stands for."""

WENT_WELL = ("successful", "success", "completed", "succeeded")
WENT_BADLY = ("incomplete", "errored", "failed", "errors", "cancelled", "canceled")
"""How reports name lists of requests that belong to one run."""

PARTED = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
"""What columns are parted by, and what messages call it."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table or log.

    Attributes:
        name: as it is looked up.
        unit: seconds (or tokens) that 1 stands for.
        labelled: whether the name says so.
    """

    name: str
    unit: float = 1.0
    labelled: bool = False


@lru_cache(maxsize=4096)
def plain_name(name: str) -> str:
    """A column's name as it is looked up: ``TTFT (ms)``, ``promptTokens`` and ``ttft_ms`` alike."""
    parted = re.sub(r"([a-z])([A-Z])", r"\1_\2", name.strip())
    return re.sub(r"[^a-z0-9]+", "_", parted.lower()).strip("_")


_SIDES = {
    "prompt_tokens": frozenset(
        ("prompt", "prompts", "input", "inputs", "in", "context", "request", "prefill")
    ),
    "output_tokens": frozenset(
        ("output", "outputs", "out", "completion", "completions", "response", "generated", "generation",
         "gen", "answer", "reply", "decode", "candidates")
    ),
}  # fmt: skip
_MEASURES = frozenset(("token", "tokens", "tok", "toks", "len", "length"))
_BESIDE = frozenset(("num", "n", "number", "no", "of", "count", "usage", "processed"))
"""Words that change nothing about a number of tokens; ``total``, ``cached`` or ``max`` do."""


@lru_cache(maxsize=4096)
def _says_tokens(name: str) -> str | None:
    """Which number of tokens a plain name says in words: ``tokens_prompt``, ``in_tok``."""
    words = set(name.split("_"))
    for quantity, sides in _SIDES.items():
        if len(words & sides) == 1 and words & _MEASURES and not words - sides - _MEASURES - _BESIDE:
            return quantity
    return None


_SPELLED = frozenset(name for names in COUNTS.values() for name in names) | frozenset(ARRIVALS)


@lru_cache(maxsize=4096)
def leaf_name(name: str) -> str:
    """The plain name of a column whose objects were flattened: of ``usage.prompt_tokens`` its known end."""
    parts = name.split(".")
    ends = (plain_name(".".join(parts[place:])) for place in range(len(parts)))
    return next((end for end in ends if end in _SPELLED or _says_tokens(end)), plain_name(name))


def counted(quantity: str, header: Sequence[str]) -> list[Column]:
    """Columns that may hold a number of tokens, the likeliest first."""
    spelled = [spelling for spelling in COUNTS[quantity] if spelling in header]
    return [
        Column(name)
        for name in spelled or dict.fromkeys(name for name in header if _says_tokens(name) == quantity)
    ]


_MOMENT = frozenset(("time", "timestamp", "ts", "date", "datetime", "at", "on"))
_HAPPENED = frozenset(
    ("created", "received", "sent", "arrived", "arrival", "start", "started", "submitted", "begin", "began",
     "queued", "enqueued", "issued", "requested", "logged", "logging", "log", "event", "generated")
)  # fmt: skip
_OF = frozenset(("request", "requests", "req", "utc", "gmt", "local", "unix", "epoch"))


def happened(header: Sequence[str]) -> list[Column]:
    """Columns of moments at which something began, by the words of their names: ``request_created_at``."""
    found = []
    for name in header:
        suffix = next((end for end in UNITS if end and name.endswith(end)), "")
        words = set(name.removesuffix(suffix).split("_"))
        if words & _MOMENT and words & _HAPPENED and not words - _MOMENT - _HAPPENED - _OF:
            found.append(Column(name, UNITS[suffix], bool(suffix)))
    return found


def timed(spellings: Sequence[str], header: Sequence[str]) -> list[Column]:
    """Columns of times under these names, with or without a unit behind them, the likeliest first."""
    return [
        Column(spelling + suffix, unit, bool(suffix))
        for spelling in spellings
        for suffix, unit in UNITS.items()
        if spelling + suffix in header
    ]


def delimiter_of(header: str) -> str:
    """What parts the columns of a table, by its first line."""
    return max(PARTED, key=header.count)


def served(document: Mapping[str, Any], notes: list[str]) -> Iterator[tuple[str, Any]]:
    """What a report holds by name, but for its lists of requests that failed beside those that went well.

    Those that are left out are counted in ``notes``.
    """
    good = any(isinstance(document.get(name), list) and document[name] for name in WENT_WELL)
    for name, item in document.items():
        if not (good and name in WENT_BADLY and isinstance(item, list)):
            yield name, item
        elif item:
            notes.append(f"{len(item):,} requests listed as {name} are left out")
