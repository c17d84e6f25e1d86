"""The wordings of memory lines in vLLM and SGLang start-up logs, by what they say.

A wording is literal text with ``{fields}`` for numbers, ``{field:word}`` for words, ``<any>`` for anything;
a space also matches none, because versions differ in ``79.15GiB`` and ``79.15 GiB``. A field's name says its
unit. Of several wordings under one name the first that matches is taken, so fuller ones come first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kvplan.sizing.logs.sglang_wordings import SGLANG
from kvplan.sizing.logs.vllm_wordings import VLLM

_ANY = 2_000
"""Characters that anything is at most: lists of sizes to capture run to hundreds."""

_NUMBER = r"-?\d[\d,]*(?:\.\d+)?"
_FIELD = re.compile(r"\\\{(\w+)(:word)?\\\}")


@dataclass(frozen=True, slots=True)
class Wording:
    """One wording: what it says, who prints it ('': either), texts every match contains, the expression."""

    name: str
    engine: str
    cues: tuple[str, ...]
    expression: re.Pattern[str]
    words: frozenset[str]


MAX_NUMBER = 1e15
"""Beyond any count or size in a log: such a line was not written by an engine."""


def possible(key: str, value: float | str) -> bool:
    """Whether an engine can have meant it: sizes may be missing (negative), counts may not."""
    return isinstance(value, str) or (
        abs(value) < MAX_NUMBER and (value >= 0 or key.endswith(("gib", "mib")))
    )


def _compile(name: str, engine: str, template: str) -> Wording:
    chunks = re.split(r"\{\w+(?::word)?\}|<any>| ", template)
    cues = tuple(sorted({chunk.casefold() for chunk in chunks if chunk}, key=len, reverse=True))
    words = frozenset(re.findall(r"\{(\w+):word\}", template))

    def field(match: re.Match[str]) -> str:
        return f"(?P<{match.group(1)}>{'[0-9A-Za-z_.+-]+' if match.group(2) else _NUMBER})"

    escaped = re.escape(template).replace(r"\ ", r"\s*").replace("<any>", f".{{0,{_ANY}}}?")
    return Wording(name, engine, cues, re.compile(_FIELD.sub(field, escaped), re.IGNORECASE), words)


_EITHER = (
    *(
        (
            "oom",
            (
                f"out of memory. Tried to allocate {{asked_{asked.lower()}}} {asked}. GPU {{device}} has a "
                f"total capacity of {{total_gib}} GiB of which {{left_{left.lower()}}} {left} is free"
            ),
        )
        for asked in ("GiB", "MiB")
        for left in ("GiB", "MiB")
    ),
    ("oom", "OutOfMemoryError: {device:word} out of memory"),
    ("oom", "{device:word} out of memory. Tried to allocate"),
    ("oom", "CUDA out of memory"),
    ("oom", "CUDA error: out of memory"),
    # Files of tuned kernels, found or not.
    ("device", "device_name={device_name:word},dtype="),
    ("device", "device_name={device_name:word}.json"),
)
"""What torch says, whichever engine calls it."""

_KILLED = (
    ("killed", r"(?:^|\| |\] |\bpid=[^()]{1,60}\) |std(?:out|err) F )Killed\s*$"),
    ("killed", r"(?:\S: line \d+:\s+(?:\d+ )?|\bzsh: |^\[\d+\]\s*[+-]?\s+(?:\d+ )?)killed(?:\s{2}|$)"),
    ("oomkilled", r"\bOOMKilled\b(?!\"?[:=]\s*false)"),
    ("137", r"\bexit(?:ed)?(?: with)?[ _-]?(?:code|status)\"?[: =]\s*137\b"),
    ("killed process", r"\bout of memory: Killed process \d+"),
)
"""What a shell, a container's runtime, Kubernetes and the kernel say of a process that was killed."""

WORDINGS: tuple[Wording, ...] = (
    *(_compile(name, "vllm", template) for name, template in VLLM),
    *(_compile(name, "sglang", template) for name, template in SGLANG),
    *(_compile(name, "", template) for name, template in _EITHER),
    *(Wording("killed", "", (cue,), re.compile(said, re.IGNORECASE), frozenset()) for cue, said in _KILLED),
)
