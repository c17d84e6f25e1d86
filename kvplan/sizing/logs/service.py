"""What a server says while it serves: how full its pool was, who waited, how many were preempted or found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kvplan.sizing.logs.drafted import CUES, Drafted, drafted, sentence, together
from kvplan.units import format_tokens

_COUNT = r"\d{1,9}"
_SHARE = r"\d{1,3}(?:\.\d{1,6})?"

_RUNNING = re.compile(rf"\bRunning: ({_COUNT}) reqs|#running-req: ({_COUNT})")
_WAITING = re.compile(rf"\b(?:Waiting|Pending): ({_COUNT}) reqs|#queue-req: ({_COUNT})")
_USAGE = re.compile(rf"\w KV cache usage: ({_SHARE})%")
"""Of the device that vLLM names; the first that a line has, as V0 tells that of its swap space behind it."""
_SHARES = re.compile(rf"(?<!allocated )(?:\b(full|swa|mamba) )?(?:token )?usage: ({_SHARE}),")
_TWO_SHARES = re.compile(rf"usage: full=({_SHARE}), swa=({_SHARE}),")
"""Of SGLang's pools; the fullest of them decides. What a decode server has promised is no use of one."""
_POOLS = {"swa": "the pool of windows", "mamba": "the pool of states"}
_RANK = re.compile(r"\bEngine (\d{1,6}): |\[[^\[\]]{0,60}?\b(DP\d{1,6})\b")
"""Whose report it is, where each rank has a pool: ``Engine 003: Avg ...``, ``[10:00:01 DP3 TP3] ...``."""
_TOO_LONG = re.compile(
    r"Input prompt \(\d+ tokens\) is too long|longer than the KV cache pool size|"
    r"not enough kv cache blocks to run the entire sequence|"
    r"Input length \(\d+ tokens\) exceeds the maximum allowed length|"
    r"Error: This model's maximum context length is \d+ tokens"
)
_HITS = re.compile(rf"(?<!MM )(?<!xternal )[Pp]refix cache hit rate: (?:GPU: )?({_SHARE})%")
_EXTERNAL = re.compile(rf"External prefix cache hit rate: ({_SHARE})%")
_NEW = re.compile(rf"#new-token: ({_COUNT}).{{0,40}}?#cached-token: ({_COUNT})")
_PREEMPTED = re.compile(rf"\bPreemptions: ({_COUNT})|#retracted_reqs: ({_COUNT})")
_SO_FAR = re.compile(rf"total_(?:num_)?cumulative_preemption(?:_cnt)?=({_COUNT})")
"""Of vLLM before V1, which counts from its start; ``_PREEMPTED`` are those of one line."""

_CUES = (
    "avg prompt throughput", "prefix cache hit rate", "prefill batch", "decode batch", "#retracted_reqs",
    "cumulative_preemption", "kv cache usage: ", "input prompt (", "longer than the kv cache pool",
    "not enough kv cache blocks", "exceeds the maximum allowed length",
    "model's maximum context length is", *CUES,
)  # fmt: skip

FULL = 0.95
"""From here on a pool is called full: what runs next may preempt."""


@dataclass(frozen=True, slots=True)
class Report:
    """One line; ``None`` for what it does not say.

    Attributes:
        usage: how full the fullest pool was, and ``pool`` which one, where an engine has several.
        hit_ratio: of vLLM's last thousand requests.
        rank: whose pool it is about; '' where the line does not tell.
        too_long: it says that a request is longer than the pool, or than a request may be.
        external_ratio: of tokens that were looked for elsewhere, by a KV connector, those found there.
    """

    line: int
    running: int | None
    waiting: int | None
    usage: float | None
    hit_ratio: float | None
    computed_tokens: int
    cached_tokens: int
    preempted: int
    preempted_so_far: int
    source: str
    drafts: Drafted | None = None
    pool: str = ""
    rank: str = ""
    too_long: bool = False
    external_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """All reports of one start: the most that any says, the last hit ratio, how many were preempted or too
    long, what became of drafts, which pool was the fullest, how many ranks report, and what connectors
    found."""

    reports: int
    running: int | None
    waiting: int | None
    usage: float | None
    hit_ratio: float | None
    preemptions: int
    drafts: Drafted | None = None
    pool: str = ""
    ranks: int = 1
    too_long: int = 0
    external_ratio: float | None = None


def report(text: str, line: int, source: str) -> Report | None:
    """What a line (of a container) says of a server at work; ``None`` where it says nothing."""
    lowered = text.casefold()
    if not any(cue in lowered for cue in _CUES):
        return None
    new = _NEW.search(text)
    usage, pool = _fullest(text, lowered)
    rank = _RANK.search(text)
    hits, external = _HITS.search(text), _EXTERNAL.search(text)
    return Report(
        line,
        _number(_RUNNING, text),
        _number(_WAITING, text),
        usage,
        None if hits is None else min(1.0, float(hits[1]) / 100),
        0 if new is None else int(new[1]),
        0 if new is None else int(new[2]),
        _number(_PREEMPTED, text) or 0,
        _number(_SO_FAR, text) or 0,
        source,
        drafted(text),
        pool,
        "" if rank is None else rank[1] or rank[2],
        _TOO_LONG.search(text) is not None,
        None if external is None else min(1.0, float(external[1]) / 100),
    )


def _fullest(text: str, lowered: str) -> tuple[float | None, str]:
    """How full the fullest pool of a line is, and which one it is; ``None`` where it does not say."""
    said = _USAGE.search(text)
    shares = [] if said is None else [(float(said[1]) / 100, "")]
    if "batch" in lowered:
        named = _SHARES.findall(text)
        if (two := _TWO_SHARES.search(text)) is not None:
            named += [("full", two[1]), ("swa", two[2])]
        shares += [(float(share), _POOLS.get(pool, "")) for pool, share in named]
    return max((share for share in shares if share[0] <= 1), key=lambda share: share[0], default=(None, ""))


def _number(expression: re.Pattern[str], text: str) -> int | None:
    match = expression.search(text)
    return None if match is None else int(next(group for group in match.groups() if group is not None))


def service(reports: Sequence[Report]) -> Service | None:
    """What the reports of one start come to; ``None`` without any."""
    if not reports:
        return None
    computed = sum(item.computed_tokens for item in reports)
    cached = sum(item.cached_tokens for item in reports)
    full = max(reports, key=lambda item: -1.0 if item.usage is None else item.usage)
    last = next((item.hit_ratio for item in reversed(reports) if item.hit_ratio is not None), None)
    return Service(
        len(reports),
        max((item.running for item in reports if item.running is not None), default=None),
        max((item.waiting for item in reports if item.waiting is not None), default=None),
        full.usage,
        cached / (cached + computed) if computed + cached else last,
        max(
            sum(item.preempted for item in reports),
            max(item.preempted_so_far for item in reports),
        ),
        together([item.drafts for item in reports if item.drafts is not None]),
        full.pool,
        max(1, len({item.rank for item in reports if item.rank})),
        sum(item.too_long for item in reports),
        next((item.external_ratio for item in reversed(reports) if item.external_ratio is not None), None),
    )


def sentences(found: Service, *, engine: str) -> list[str]:
    """The service in words, and what follows from it for the pool."""
    worked = (found.running, found.waiting, found.usage, found.preemptions, found.drafts, found.too_long)
    if not any(worked):
        return ["nothing ran whenever it reported"]
    most = [
        f"at most {format_tokens(value)} {what if value > 1 else what.replace('requests', 'request')}"
        if value
        else f"none {what.removeprefix('requests ')}"
        for what, value in (("requests ran", found.running), ("waited", found.waiting))
        if value is not None
    ]
    lines = "one line that reports" if found.reports == 1 else f"{found.reports:,} lines that report"
    pool = found.pool or "the pool"
    where = "" if found.ranks == 1 else f" on one of {found.ranks:,} ranks"
    said = [f"{' and '.join(most)} at once{where}, by the {lines}"] if most else []
    if found.usage is not None:
        said.append(f"{pool} was at most {100 * found.usage:.1f}% full")
    if found.hit_ratio is not None:
        whole = "" if engine == "sglang" else "of late, "
        said.append(
            f"{whole}{100 * found.hit_ratio:.1f}% of the prompt tokens were found in the prefix cache"
        )
    if found.external_ratio is not None:
        said.append(
            f"of late, {100 * found.external_ratio:.1f}% of what a KV connector was asked for was there"
        )
    if found.drafts is not None:
        said.append(sentence(found.drafts))
    if found.preemptions:
        fewer = "--max-running-requests" if engine == "sglang" else "--max-num-seqs"
        said.append(
            f"{found.preemptions:,} preemption{'' if found.preemptions == 1 else 's'}: the pool is too small "
            f"for what runs at once; enlarge it, or let fewer run ({fewer})"
        )
    elif found.waiting and found.usage is not None and found.usage < FULL:
        said.append("requests waited beside a pool that was not full: its size is not what limits")
    elif found.waiting and found.usage is not None:
        said.append(f"requests waited while {pool} was full: a larger pool lets more of them run")
    if found.too_long:
        many = "a request was" if found.too_long == 1 else f"{found.too_long:,} requests were"
        said.append(f"{many} refused or cut: longer than the pool, or than a request may be")
    return said
