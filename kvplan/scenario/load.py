"""From files and flags to one validated scenario."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kvplan.errors import KvplanError, SpecError, UsageError
from kvplan.scenario.schema import Scenario
from kvplan.scenario.schema.part import folded
from kvplan.scenario.schema.workload import OF_SYNTHETIC, OF_TRACES
from kvplan.specs.bounded import STDIN, read_standard_input
from kvplan.specs.document import MAX_YAML_BYTES, YamlDocument, parse_value, parse_yaml, read_yaml, validate


def load_scenario(
    path: str | YamlDocument | None,
    flags: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
    *,
    varied: Sequence[str] = (),
    varied_by: str = "--vary",
    count: int | None = None,
) -> Scenario:
    """Merge a scenario file, the common flags and ``--set`` assignments; later ones win.

    Args:
        path: YAML file, ``-`` for standard input, what ``read_scenario`` read of either, or ``None`` when
            flags say everything.
        flags: dotted key to value; values of ``None`` are left out.
        assignments: ``a.b=value`` texts; the value is read as YAML.
        varied: more of these, of one point of a sweep; errors call them ``varied_by``.
        count: how many requests to generate or, of a trace, to read.

    Raises:
        SpecError: the file is malformed or a field is invalid (file:line, key path).
        UsageError: an assignment cannot be read, a flag's value is invalid, or flags contradict each other.
    """
    chosen = {key: value for key, value in (flags or {}).items() if value is not None}
    if path is None and not chosen and not assignments:
        raise UsageError(
            "nothing says what to simulate",
            hint="kvplan simulate scenario.yaml, or --model and --gpu with --trace FILE or --synthesize chat",
        )
    if "workload.trace" in chosen and "workload.synthesize" in chosen:
        raise UsageError("--trace and --synthesize exclude each other", hint="give one of them")
    document = path if isinstance(path, YamlDocument) else read_scenario(path)
    data = copy.deepcopy(document.data)
    given: dict[tuple[str | int, ...], str] = {} if path is not None else {(): "command line"}
    # A trace and a synthetic workload exclude each other: a flag replaces what the file says.
    workload = data.get("workload")
    if isinstance(workload, dict):
        for key, replaced in _REPLACED.items():
            for name in replaced if key in chosen else ():
                workload.pop(name, None)
    named = _FIELDS_OF_SGLANG if _is_sglang(data, chosen, (*assignments, *varied)) else {}
    for key, value in chosen.items():
        field = named.get(key, key)
        _assign(data, field, value)
        given[tuple(field.split("."))] = _OPTIONS.get(key, f"--{key.rpartition('.')[2].replace('_', '-')}")
    for option, texts in (("--set", assignments), (varied_by, varied)):
        for text in texts:
            key, value = parse_assignment(text)
            _assign(data, key, value)
            given[tuple(key.split("."))] = option
    if count is not None:
        workload = data.get("workload")
        synthetic = isinstance(workload, dict) and workload.get("synthesize") is not None
        key = "workload.requests" if synthetic else "workload.limit"
        if any(split_setting(text)[0] == key for text in varied):
            raise UsageError(f"--limit sets {key}, which is varied", hint="leave --limit out")
        _assign(data, key, count)
        given[tuple(key.split("."))] = "--limit"
    if not named and _leaves_prefixes(data):
        cache = data.setdefault("cache", {})
        if (eviction := cache.get("eviction", "lru")) != "lru":
            raise UsageError(
                f"cache.eviction {eviction} has nothing to evict: this version of vLLM caches no prefixes of "
                f"{data['model']} unless it is told to",
                where="cache.eviction", hint="set cache.prefix=hash, too, or leave cache.eviction out",
            )  # fmt: skip
        cache["prefix"] = "none"
    try:
        return validate(YamlDocument(data, document.path, document.root, given), Scenario)
    except KvplanError as exc:
        if "workload" not in data and exc.message == "this field is missing":
            exc.hint = "say what traffic comes: --trace FILE, or --synthesize chat"
        raise


def _is_sglang(data: Mapping[str, Any], flags: Mapping[str, Any], assignments: Sequence[str]) -> bool:
    """Whether the merged scenario will be one of SGLang; the last that says so wins."""
    engine = data.get("engine")
    kind = engine.get("kind") if isinstance(engine, dict) else None
    kind = flags.get("engine.kind", kind)
    for text in assignments:
        key, value = split_setting(text)
        kind = value if key == "engine.kind" else kind
    return folded(kind) == "sglang"


_OPTIONS = {
    "latency.model": "--latency",
    "engine.kind": "--engine",
    "engine.max_model_len": "--ctx",
    "engine.gpu_memory_utilization": "--utilization",
    "price.gpu_hour": "--price",
}
"""Options that are not called as their field."""

_FIELDS_OF_SGLANG = {
    "engine.max_model_len": "engine.context_length",
    "engine.gpu_memory_utilization": "engine.mem_fraction_static",
    "engine.max_num_seqs": "engine.max_running_requests",
    "engine.max_num_batched_tokens": "engine.chunked_prefill_size",
    "cache.block_size": "engine.page_size",
}
"""Flags mean the same on both engines, whose fields have the names that each of them uses."""

_REPLACED = {
    "workload.trace": ("synthesize", *OF_SYNTHETIC),
    "workload.synthesize": ("trace", *OF_TRACES),
}


_OF_TRACES = (".csv", ".tsv", ".jsonl", ".ndjson", ".gz", ".zst", ".xz", ".parquet")
"""Endings of names that no scenario has."""


def read_scenario(path: str | None) -> YamlDocument:
    """A scenario file as it stands, to be completed by ``load_scenario``; nothing without a path.

    Raises:
        SpecError: not a mapping in safe YAML, too large or too deep. UsageError: a model stands in its place.
        OSError: it cannot be read.
    """
    if path is None:
        return YamlDocument({}, "command line", None)
    if path == "-":
        return parse_yaml(read_standard_input(MAX_YAML_BYTES, "a scenario"), STDIN)
    try:
        return read_yaml(Path(path))
    except SpecError as exc:
        if Path(path).suffix.lower() in _OF_TRACES:
            exc.hint = f"if it is a trace, give it with --trace {path}"
        raise
    except FileNotFoundError as exc:
        if not _is_model(path):
            raise
        raise UsageError(
            f"{path!r} is a model, and a scenario file is expected here", hint=f"name it with --model {path}"
        ) from exc


def _leaves_prefixes(data: Mapping[str, Any]) -> bool:
    """Whether nothing says how prefixes are shared, and vLLM caches none of this model then."""
    model, cache = data.get("model"), data.get("cache", {})
    if not isinstance(model, str) or model == "-" or not isinstance(cache, dict):
        return False  # standard input can be read but once
    if {"prefix", "groups"} & set(cache):
        return False
    engine = data.get("engine") or {}
    version = engine.get("version") if isinstance(engine, dict) else None
    from kvplan.sizing.prefix_caching import caches_prefixes
    from kvplan.sizing.serving import engine_version
    from kvplan.specs.resolve import resolve_model

    try:
        known = engine_version("vllm", version if isinstance(version, str) else None)
        return not caches_prefixes(resolve_model(model).model, known)
    except (KvplanError, OSError):
        return False  # who needs the model, or the version, says so


def _is_model(name: str) -> bool:
    from kvplan.specs.catalog import load_model

    try:
        load_model(name)
    except KvplanError:
        return False
    return True


def split_setting(text: str) -> tuple[str, str]:
    """``a.b=rest`` -> its dotted key and the rest as it stands; an empty key where the text is none."""
    key, equals, raw = text.partition("=")
    key = key.strip()
    return (key, raw) if equals and all(key.split(".")) else ("", raw)


def parse_assignment(text: str) -> tuple[str, Any]:
    """``engine.max_num_seqs=64`` -> ``("engine.max_num_seqs", 64)``."""
    key, raw = split_setting(text)
    if not key:
        raise UsageError(f"cannot read --set {text!r}", hint="write it like --set engine.max_num_seqs=64")
    try:
        return key, field_value(key, raw, "--set")
    except SpecError as exc:
        raise UsageError(
            f"cannot read the value of --set {key}: {exc.message}", hint=exc.hint or "quote it as YAML"
        ) from exc


def field_value(key: str, raw: str, where: str) -> Any:
    """The value of a field as YAML reads it; a version stays what was written, as 0.10 is not 0.1.

    Raises:
        SpecError: not YAML.
    """
    value = parse_value(raw, where)
    return raw.strip() if key == "engine.version" and isinstance(value, (int, float)) else value


def _assign(data: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    node = data
    for parent in parents:
        child = node.get(parent)
        if child is None:  # also a part that a printed scenario says is not there
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise UsageError(f"cannot set {key!r}: {parent!r} holds {child!r}, not fields")
        node = child
    node[last] = value


def dump_scenario(scenario: Scenario) -> str:
    """The scenario as YAML that reads back to the same scenario."""
    import yaml

    return yaml.safe_dump(scenario.to_dict(), sort_keys=False, allow_unicode=True, width=100)
