"""From files and flags to one validated scenario."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kvplan.errors import UsageError
from kvplan.scenario.schema import Scenario
from kvplan.specs.document import YamlDocument, parse_yaml, read_yaml, validate


def load_scenario(
    path: str | None, flags: Mapping[str, Any] | None = None, assignments: Sequence[str] = ()
) -> Scenario:
    """Merge a scenario file, the common flags and ``--set`` assignments; later ones win.

    Args:
        path: YAML file, ``-`` for standard input, or ``None`` when flags say everything.
        flags: dotted key to value; values of ``None`` are left out.
        assignments: ``a.b=value`` texts; the value is read as YAML.

    Raises:
        SpecError: the file is malformed or a field is invalid (file:line, key path).
        UsageError: an assignment cannot be read.
    """
    document = _read(path)
    data = copy.deepcopy(document.data)
    for key, value in (flags or {}).items():
        if value is not None:
            _assign(data, key, value)
    for text in assignments:
        key, value = parse_assignment(text)
        _assign(data, key, value)
    # A trace and a synthetic workload exclude each other: the flag given last replaces the other.
    workload = data.get("workload")
    if isinstance(workload, dict) and flags:
        if flags.get("workload.trace") is not None:
            for name in ("synthesize", "requests", "prompt_tokens", "output_tokens"):
                workload.pop(name, None)
        elif flags.get("workload.synthesize") is not None:
            workload.pop("trace", None)
    return validate(YamlDocument(data, document.path, document.root), Scenario)


def _read(path: str | None) -> YamlDocument:
    if path is None:
        return YamlDocument({}, "command line", None)
    if path == "-":
        return parse_yaml(sys.stdin.read(1 << 20), "<stdin>")
    return read_yaml(Path(path))


def parse_assignment(text: str) -> tuple[str, Any]:
    """``engine.max_num_seqs=64`` -> ``("engine.max_num_seqs", 64)``."""
    key, equals, raw = text.partition("=")
    key = key.strip()
    if not equals or not key or any(not part for part in key.split(".")):
        raise UsageError(f"cannot read --set {text!r}", hint="write it like --set engine.max_num_seqs=64")
    try:
        value = yaml.load(raw, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as exc:
        raise UsageError(f"cannot read the value of --set {text!r}", hint="quote it as YAML") from exc
    return key, value


def _assign(data: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    node = data
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise UsageError(f"cannot set {key!r}: {parent!r} holds {child!r}, not fields")
        node = child
    node[last] = value


def dump_scenario(scenario: Scenario) -> str:
    """The scenario as YAML that reads back to the same scenario."""
    return yaml.safe_dump(scenario.to_dict(), sort_keys=False, allow_unicode=True, width=100)
