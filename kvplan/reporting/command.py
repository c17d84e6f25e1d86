"""A command line that runs a result's scenario again, with changes."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from kvplan.reporting.tables import default_settings
from kvplan.scenario.sizes import SIZES

PRICE = "price.gpu_hour"
ENGINE = "vllm"
"""What is simulated where nothing says which engine."""

MAX_COMMAND = 2000
"""Longest command shown; a scenario of more settings is a file, which its user has."""

_OPTIONS = {
    "model": "--model",
    "gpu": "--gpu",
    "engine.kind": "--engine",
    "parallel.tp": "--tp",
    "parallel.pp": "--pp",
    "engine.max_model_len": "--ctx",
    "engine.context_length": "--ctx",
    "cache.dtype": "--dtype",
    "weights_dtype": "--weights-dtype",
    "engine.gpu_memory_utilization": "--utilization",
    "engine.mem_fraction_static": "--utilization",
    "engine.max_num_seqs": "--max-num-seqs",
    "engine.max_running_requests": "--max-num-seqs",
    "engine.max_num_batched_tokens": "--max-num-batched-tokens",
    "engine.chunked_prefill_size": "--max-num-batched-tokens",
    "cache.blocks": "--blocks",
    "workload.trace": "--trace",
    "workload.synthesize": "--synthesize",
    "workload.requests": "--limit",
    "workload.limit": "--limit",
    "workload.rate": "--rate",
    PRICE: "--price",
    "seed": "--seed",
}
"""Fields with an option that both ``simulate`` and ``sweep`` have."""

_LEFT_TO_SET = {
    "plan": frozenset(("--pp", "--utilization", "--max-num-seqs", "--max-num-batched-tokens", "--blocks"))
}
"""Options of these that a verb does not have."""

_ASKED_FOR = ("disaggregation",)
"""Parts that are not there unless asked for, though they need nothing said."""

_KEY = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
_WORD = re.compile(r"[A-Za-z_][\w./+-]*")
_YAML_WORDS = frozenset(("true", "false", "yes", "no", "on", "off", "null", "y", "n"))


def command(scenario: Mapping[str, Any], verb: str, changes: Mapping[str, object], *rest: str) -> str | None:
    """``kvplan <verb>`` with every setting that is not a default, ``changes`` and ``rest``.

    ``None`` where the scenario reads standard input, is too long or has fields of no known name.
    """
    parts = [part for part in _ASKED_FOR if scenario.get(part) is not None]
    usual = default_settings(scenario.get("engine"), parts)
    usual.pop("workload.synthesize")  # what is asked for is no default, whatever it is
    usual["engine.kind"] = ENGINE  # the other engine has defaults of its own, and is none
    usual |= dict.fromkeys(SIZES, 1)
    kept = {key: value for key, value in _settings(scenario) if not any(_within(key, it) for it in changes)}
    chosen = {key: value for key, value in kept.items() if usual.get(key) != value}
    settings = {key: value for key, value in {**chosen, **changes}.items() if usual.get(key) != value}
    settings |= {part: {} for part in parts if not any(_within(key, part) for key in settings)}
    if settings.get("workload.trace") == "-" or not all(map(_KEY.fullmatch, settings)):
        return None
    words = ["kvplan", verb]
    options = {key: name for key, name in _OPTIONS.items() if name not in _LEFT_TO_SET.get(verb, ())}
    for key, option in options.items():
        if key in settings:
            words += [option, _text(settings[key])]
    for key, value in settings.items():
        if key not in options:
            words += ["--set", f"{key}={setting_value(value)}"]
    text = shlex.join([*words, *rest])
    return text if len(text) <= MAX_COMMAND and text.isprintable() else None


def _within(key: str, part: str) -> bool:
    """Whether a key path is another one, or below it."""
    return f"{key}.".startswith(f"{part}.")


def setting_value(value: object) -> str:
    """A value as ``--set`` reads it back, which reads YAML."""
    if isinstance(value, str) and _WORD.fullmatch(value) and value.lower() not in _YAML_WORDS:
        return value
    return _text(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _text(value: object) -> str:
    """A value as an option takes it; whole numbers without a fraction."""
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _settings(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """``(key path, value)`` of every field that is set; lists stay whole, prices as ``--price`` has them."""
    for key, value in node.items():
        name = f"{path}{key}"
        if name == PRICE and isinstance(value, Mapping):
            yield name, ",".join(f"{gpu}={_text(price)}" for gpu, price in value.items())
        elif isinstance(value, Mapping):
            yield from _settings(value, f"{name}.")
        elif value is not None:
            yield name, value
