"""What would enlarge the pool, or let a server start that did not: changes, and what they gain by the log."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

from kvplan.sizing.logs.account import STARTUP_PLAN, Account
from kvplan.sizing.logs.gpus import GPUS
from kvplan.sizing.logs.release import named_release
from kvplan.sizing.serving import parse_version, vllm_utilization
from kvplan.units import GIB, format_bytes


@dataclass(frozen=True, slots=True)
class Enlargement:
    """A change and what it gains by the log's own numbers; ``None`` where they do not say."""

    change: str
    gained_bytes: int | None
    gained_tokens: int | None
    why: str


WIDE = (None, "bf16", "fp16")
"""Formats of the cache that fp8 halves; a log that names none has the model's own, of 16 bits."""

HIGHEST_UTILIZATION = 0.95
"""More leaves too little for what is not measured beforehand."""

LEFT_BESIDE_BYTES = 6 * GIB
"""What SGLang needs beside a pool, once it is up: its guide to tuning names 5 to 8 GB."""


def _free_share(log: Account) -> float:
    """The largest utilization that what was free allows, in hundredths; vLLM refuses to start above it."""
    if log.free_bytes is None or not log.total_bytes:
        return 1.0
    return max(0.0, floor(100 * log.free_bytes / log.total_bytes) / 100)


def _room(log: Account) -> list[Enlargement]:
    """What would let a server start that found less free than its share of the memory."""
    if log.free_bytes is None or log.total_bytes is None:
        return []
    held = log.total_bytes - log.free_bytes
    found = [
        Enlargement(
            f"end the processes that hold {'the memory' if log.device == 'cpu' else 'the GPU'}", held, None,
            "they hold what was not free" + ("" if log.device == "cpu" else " (nvidia-smi lists them)"),
        )
    ]  # fmt: skip
    if share := _free_share(log):
        found.append(
            Enlargement(
                f"--gpu-memory-utilization {share:.2f}", None, None,
                f"at most {format_bytes(log.free_bytes)} were free; weights and cache must fit into them",
            )
        )  # fmt: skip
    return found


def _share(log: Account) -> float | None:
    """The share of the memory, vLLM's own where the log names none; ``None`` where that is unknown, too."""
    release = named_release(log.version) if log.engine == "vllm" else None
    if log.utilization is not None or release is None or log.device not in GPUS:
        return log.utilization
    return vllm_utilization(parse_version(release))


def _share_option(log: Account) -> str:
    return "--mem-fraction-static" if log.engine == "sglang" else "--gpu-memory-utilization"


STEP_BACK = 0.05
"""How much less of the memory an engine that ran out of it is given: a few GiB of a large GPU."""


def _smaller_pool(log: Account) -> list[Enlargement]:
    """What leaves more outside the pool, to a server that ran out of memory there."""
    why = "a smaller pool, and more for what is allocated beside it"
    share = _share(log)
    if log.pool_option == STARTUP_PLAN:
        found = [Enlargement(log.pool_option, None, None, "measures again how large the pool may be")]
    elif log.pool_option is not None:
        found = [Enlargement(f"a smaller {log.pool_option}", None, None, why)]
    elif share is not None and share > STEP_BACK:
        found = [Enlargement(f"{_share_option(log)} {share - STEP_BACK:.2f}", None, None, why)]
    else:
        found = []
    return [*found, *_smaller_steps(log)]


def _smaller_steps(log: Account) -> list[Enlargement]:
    return [
        Enlargement(
            "a smaller --max-running-requests or --chunked-prefill-size"
            if log.engine == "sglang"
            else "a smaller --max-num-seqs or --max-num-batched-tokens",
            None, None, "activations and CUDA graphs shrink with them",
        )
    ]  # fmt: skip


def _after_oom(log: Account) -> list[Enlargement]:
    """What helps a server that ran out of memory: by how far it had come."""
    if log.pool_bytes is not None:
        return _smaller_pool(log)
    return [*_smaller_steps(log), *_smaller_weights(log)] if log.weights_bytes else _smaller_weights(log)


def _smaller_weights(log: Account) -> list[Enlargement]:
    """What helps a server whose weights did not fit."""
    found = _fewer_bits()
    if (log.tp or 1) < 8:
        split = f"--tensor-parallel-size {2 * (log.tp or 1)}"
        found.append(Enlargement(split, None, None, "half the weights a GPU"))
    return found


def _fewer_bits() -> list[Enlargement]:
    return [
        Enlargement("a checkpoint in fewer bits", None, None, "fp8 takes half of bf16, int4 about a third")
    ]


_ELSEWHERE = {
    "pool_not_free": Enlargement(
        "a smaller --kv-cache-memory-bytes or VLLM_CPU_KVCACHE_SPACE", None, None,
        "the pool is taken at once, out of what is free",
    ),
    "no_host_memory": Enlargement(
        "a smaller --hicache-size or --hicache-ratio", None, None, "each rank takes as much of the host",
    ),
    "unbalanced": Enlargement(
        "end the processes that hold the GPU", None, None,
        "every rank has as little as the one with least (nvidia-smi lists them)",
    ),
    "freed": Enlargement(
        "start it again, once no other process on the GPU starts or ends", None, None,
        "what it measures has to stand still meanwhile; --kv-cache-memory-bytes measures nothing",
    ),
    "images_cap": Enlargement(
        "a smaller --mm-ipc-gpu-memory-gb", None, None, "it is taken out of what the cache would have",
    ),
    "killed": Enlargement(
        "more memory of the host: a higher limit of its container, a node with more", None, None,
        "weights pass through it, with /dev/shm and what is offloaded",
    ),
}  # fmt: skip
"""What helps a server that lacks memory which no pool of a GPU is made of."""

_FEWER = {
    "exhausted": (
        Enlargement("a smaller --max-running-requests", None, None, "fewer share the pool"),
        Enlargement(
            "a larger --schedule-conservativeness", None, None, "requests are let in with more room to grow"
        ),
    ),
    "window_cap": (Enlargement("a smaller --max-running-requests", None, None, "fewer windows are kept"),),
    "states_exhausted": (
        Enlargement(
            "a larger --max-mamba-cache-size or --mamba-full-memory-ratio", None, None, "more slots of states"
        ),
        Enlargement("a smaller --max-running-requests", None, None, "fewer need a slot"),
    ),
}
"""What helps a server that lets in more than its pool has room for, before the pool is enlarged."""


def enlargements(log: Account) -> list[Enlargement]:
    """What would enlarge the pool or let the server start; gains where the log has the numbers."""
    if log.refused == "not_free":
        return _room(log)
    if log.refused == "oom":
        return _after_oom(log)
    if log.refused in _ELSEWHERE:
        return [_ELSEWHERE[log.refused]]
    if log.refused == "error" and log.pool_bytes is None:
        return []
    return [
        *_FEWER.get(log.refused or "", ()),
        *_shorter_or_fewer(log),
        *_larger_share(log),
        *_narrower_cache(log),
        *_less_beside_it(log),
    ]


def _shorter_or_fewer(log: Account) -> list[Enlargement]:
    """What lets a server start whose pool is too small for what it was asked."""
    if log.refused == "too_long" and log.longest_tokens:
        option = "--context-length" if log.engine == "sglang" else "--max-model-len"
        return [
            Enlargement(f"{option} {log.longest_tokens}", None, None, "the longest request this pool holds")
        ]
    if log.refused == "too_many" and log.most_sequences:
        return [
            Enlargement(
                f"--max-num-seqs {log.most_sequences}", None, None, "as many states as the pool holds"
            )
        ]
    return []


def _larger_share(log: Account) -> list[Enlargement]:
    if log.pool_option is not None:
        why = (
            "measures again"
            if log.pool_option == STARTUP_PLAN
            else "the pool is as large as this option says"
        )
        return [Enlargement(log.pool_option, None, None, why)]
    found = []
    highest, base = _highest(log)
    share = _share(log) if log.least_utilization is None else log.utilization or 0.0
    if share is not None and share < highest < 1:
        gained = None if base is None or log.utilization is None else round(base * (highest - share))
        found.append(
            Enlargement(
                f"{_share_option(log)} {highest:.2f}", gained, _tokens(log, gained),
                _why_as_much(log),
            )
        )  # fmt: skip
    if log.restoring_utilization is not None and log.total_bytes is not None and log.utilization is not None:
        gained = round(log.total_bytes * (log.restoring_utilization - log.utilization))
        found.append(
            Enlargement(
                f"{_share_option(log)} {log.restoring_utilization:g}", gained, _tokens(log, gained),
                "gives the graphs' share back",
            )
        )  # fmt: skip
    return found


def _highest(log: Account) -> tuple[float, int | None]:
    """The largest share to advise, and of what memory it is one."""
    highest = HIGHEST_UTILIZATION
    if log.engine != "sglang" and log.least_utilization is None:
        return min(highest, _free_share(log)), log.total_bytes
    if log.least_utilization is not None:
        highest = max(highest, floor(100 * log.least_utilization) / 100 + 0.01)
    elif log.left_bytes is not None and log.free_bytes and log.utilization is not None:
        spare = (log.left_bytes - LEFT_BESIDE_BYTES) / log.free_bytes
        highest = min(highest, floor(100 * (log.utilization + spare)) / 100)
    return highest, log.free_bytes


def _why_as_much(log: Account) -> str:
    if log.least_utilization is not None:
        return f"the engine says that it needs more than {log.least_utilization:g}"
    if log.engine == "sglang" and log.left_bytes is not None:
        return (
            f"{format_bytes(log.left_bytes)} were left when it was up, and "
            f"{format_bytes(LEFT_BESIDE_BYTES)} are enough for what is allocated beside the pool"
        )
    return "a larger share of the same memory"


def _narrower_cache(log: Account) -> list[Enlargement]:
    if log.kv_dtype not in WIDE or not (log.pool_tokens or log.refused == "too_long"):
        return []
    word = "fp8_e4m3" if log.engine == "sglang" else "fp8"
    return [
        Enlargement(
            f"--kv-cache-dtype {word}", None, log.pool_tokens, "half the bytes a token, twice the tokens"
        )
    ]


def _less_beside_it(log: Account) -> list[Enlargement]:
    """What leaves more of the same memory to the pool."""
    found = _fewer_bits() if log.refused == "no_pool" and log.weights_bytes else []
    if log.activation_bytes is not None and log.activation_bytes > (log.pool_bytes or 0) // 20:
        found.append(
            Enlargement(
                "a smaller --max-num-seqs or --max-num-batched-tokens", None, None,
                f"the activation peak of {format_bytes(log.activation_bytes)} is proportional to them",
            )
        )  # fmt: skip
    if log.weights_bytes is not None and (log.tp or 1) < 8:
        gained = log.weights_bytes // 2
        found.append(
            Enlargement(
                f"--tensor-parallel-size {2 * (log.tp or 1)}", None if log.pool_option else gained, None,
                "half the weights a GPU, half the bytes a token where KV heads divide; less the collectives",
            )
        )  # fmt: skip
    return found


def _tokens(log: Account, gained: int | None) -> int | None:
    rate = log.bytes_per_token
    return None if rate is None or gained is None else int(gained / rate)
