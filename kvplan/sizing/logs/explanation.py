"""Why the pool is what it is, line by line: words computed from the account."""

from __future__ import annotations

from dataclasses import dataclass

from kvplan.sizing.logs.account import STARTUP_PLAN, Account
from kvplan.sizing.logs.lines import Fact
from kvplan.sizing.logs.release import named_release
from kvplan.sizing.serving import PLANS_GRAPHS, parse_version
from kvplan.units import format_bytes, format_tokens

MEANINGS = {
    "version": "whose rules apply",
    "options": "the options the server was started with",
    "max_model_len": "the longest request it accepts; concurrency is counted in requests of this length",
    "fitted_length": "the longest request was cut to what the pool holds",
    "step_budget": "tokens of one step: the profiling run uses as many, so activations grow with it",
    "profile": "measured by running one step of the largest size",
    "device": "the GPU, as files of kernels tuned on it are called",
    "cpu_space": "the pool of a CPU is as large as this variable says",
    "startup_plan": "the pool's size as an earlier start measured it; nothing is measured again",
    "weights_elsewhere": "another process holds the weights, out of this one's budget",
    "pool_not_free": "the pool that was asked for is larger than what is free",
    "host_pool": "memory of the host for what leaves the pool",
    "no_host_memory": "the host has less free than the cache beside the GPU's was to take",
    "unbalanced": "one GPU has less free than another: another process holds memory",
    "prefixes_off": "no prompt is looked up in the cache",
    "weights": "weights of one rank, with scales, rotary tables and the allocator's rounding",
    "budget": "utilization is a share of the total memory, not of what was free",
    "bill": "measured by running one step of the largest size",
    "pool": "what the budget leaves for the cache",
    "reserved": "what decoding images and videos beside the engine takes from the cache",
    "pool_by_hand": "the pool's size was an option; no share of the memory decides it",
    "graph_estimate": "memory CUDA graphs are expected to take; since 0.20 it is taken out of the budget",
    "graph_sizes": "how many graphs will be captured",
    "utilization_shift": "the graphs' share of the budget, said as utilization",
    "utilization_hint": "what 0.20 and later subtract for graphs",
    "blocks": "the pool in blocks, 16 tokens each unless --block-size says otherwise",
    "tokens": "the pool in tokens",
    "concurrency": "requests of full length that fit at once",
    "graphs": "what capturing really took",
    "graph_pool": "what capturing really took, beside the estimate",
    "usage": "the bill after start-up, with what was free before",
    "usage_consumed": "the bill after start-up, weights and everything outside PyTorch in one number",
    "not_free": "less than the budget, a share of the total, was free: another process holds memory",
    "no_pool": "weights and overheads alone exceed the budget",
    "too_long": "one request of the longest length needs more than the pool",
    "freed": "another process gave memory back meanwhile: what was measured is no longer so",
    "grew": "another process gave memory back meanwhile: the pool is sized by what torch holds",
    "plan_unused": "less is free than when that plan was made: everything is measured again",
    "killed": "the system ended a process by force",
    "exhausted": "a batch had been let in for which the pool had no room",
    "images_cap": "decoding images and videos beside the engine takes more than the cache would have",
    "window_cap": "windows of as many requests as may run take more than the pool",
    "states_exhausted": "requests had been let in for which no slot of a state was left",
    "stopped": "here it went down",
    "error": "the last error",
    "asleep": "asleep it gives memory back, until it is woken",
    "tokens_capped": "the option asks for more than there is, and changes nothing",
    "window_tokens": "every layer has a window: one pool, of so many tokens",
    "too_many": "every sequence needs a block for its recurrent state, and there are fewer",
    "longest": "the longest request this pool could hold",
    "oom": "the GPU ran out of memory: what was asked for was no longer free",
    "hybrid_off": "windows and states save nothing: every layer keeps the whole context",
    "share_cut": "the share that counts; the options above name another",
    "images_reserved": "what images take beside the pool, out of its share",
    "state_cap": "states of recurrent layers, not tokens, limit how many requests run at once",
    "block_size": "tokens of a block, as the attention kernels want them",
    "hybrid_block": "a hybrid: attention blocks grow until one holds the recurrent state of a layer",
    "page_padding": "a hybrid: state pages are padded to the attention page",
    "padding_layers": "a hybrid: layer groups are filled up to equal size, and the padding takes pool memory",
    "shards": "ranks that share a request's tokens: the token line counts those of all",
    "layer_tokens": "tokens of layers without and with a window, as planned",
    "too_short": "one request of the longest length needs more than the pool: long ones will be refused",
    "blocks_override": "the number of blocks was set by hand (also during profiling)",
    "kv_dtype": "the cache's number format",
    "load_begin": "free memory once the process and its communicators are up",
    "load_end": "free memory once the weights are loaded",
    "sglang_pool": "the pool as allocated (GB here means GiB)",
    "sglang_window_pool": "two pools: all layers' tokens, and the sliding-window layers'",
    "sglang_state": "slots for the state of recurrent layers: they cap concurrency as the tokens do",
    "sglang_unified_pool": "one pool for all kinds of layers, as allocated",
    "sglang_plan": "the pool as planned, over all its parts",
    "set_aside": "addresses, not memory: the pool is sized once graphs are captured",
    "resized_shares": "tokens of layers without and with a window, after the graphs",
    "resized_tokens": "the pool after the graphs",
    "resized_pool": "the pool as allocated after the graphs",
    "resized_draft": "the draft model's pool, after the graphs",
    "communicators": "taken before weights are loaded, and no part of the static share",
    "pool_end": "what is left for activations and graphs",
    "graph_begin": "free memory before graphs are captured",
    "sglang_graphs": "what capturing took, from the memory outside the pool",
    "sglang_limits": "the limits in force",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One understood line: its number, what it says, what that means."""

    line: int
    name: str
    says: str
    means: str


def explained_lines(facts: tuple[Fact, ...]) -> list[Line]:
    """Every understood line; repeats of other ranks once."""
    seen: set[tuple[str, str]] = set()
    lines = []
    # Others are causes of the last error, and parents of what went down first.
    shown = {
        "error": next((fact for fact in reversed(facts) if fact.name == "error"), None),
        "stopped": next((fact for fact in facts if fact.name == "stopped"), None),
    }
    for fact in facts:
        if fact is not shown.get(fact.name, fact):
            continue
        says = _says(fact)
        if (fact.name, says) not in seen:
            seen.add((fact.name, says))
            lines.append(Line(fact.line, fact.name, says, MEANINGS[fact.name]))
    return lines


def _says(fact: Fact) -> str:
    parts = []
    for key, value in fact.values.items():
        if isinstance(value, str):
            parts.append(value if key == "words" else f"{key.replace('_', ' ')} {value}")
        elif key.endswith("_mib"):
            parts.append(f"{key[:-4].replace('_', ' ')} {value:g} MiB")
        elif key.endswith("_gib"):
            parts.append(f"{key[:-4].replace('_', ' ')} {value:g} GiB")
        elif key.endswith("_percent"):
            parts.append(f"{key[:-8].replace('_', ' ')} {value:g} %")
        elif key.endswith("_gb"):
            parts.append(f"{key[:-3].replace('_', ' ')} {value:g} GB")
        else:
            parts.append(f"{key.replace('_', ' ')} {value:,.10g}")
    return ", ".join(parts) or fact.text.strip()[:120]


_FAILED = {
    "freed": "it did not start: while it measured, another process gave memory of the GPU back",
    "killed": (
        "it was killed (SIGKILL), mostly because the host (not the GPU), or its container's limit, had no "
        "memory left: "
        "dmesg -T, or the pod's last state (OOMKilled), says so"
    ),
    "exhausted": "it went down at work: the pool had no room for a batch that had been let in",
    "images_cap": "it did not start: decoding images and videos beside the engine leaves the cache nothing",
    "window_cap": "it did not start: windows of as many requests as may run leave other layers nothing",
    "states_exhausted": "it went down at work: no slot of a state was left for requests that had been let in",
}
"""What else went wrong, in words."""


def reasons(log: Account) -> list[str]:
    """The account in sentences: arithmetic that the log's numbers bear out, nothing else."""
    found = [*_budget(log), *_shares(log), *_meaning(log)]
    if log.refused == "not_free" and log.free_bytes is not None and log.budget_bytes is not None:
        short = format_bytes(log.budget_bytes - log.free_bytes)
        found.append(f"it did not start: {short} of the budget were not free when it came up")
    elif log.refused == "no_pool" and (log.pool_bytes or 0) > 0:
        found.append("it did not start: what was left for the cache does not serve one request")
    elif log.refused == "no_pool":
        missing = -(log.pool_bytes or 0)
        short = f", {format_bytes(missing)} short of it" if missing > 0 else ""
        found.append(f"it did not start: nothing was left for the cache{short}")
    elif log.refused == "pool_not_free":
        found.append("it did not start: the pool that was asked for is larger than what was free")
    elif log.refused == "no_host_memory":
        found.append("it did not start: the host has less memory free than its part of the cache takes")
    elif log.refused == "unbalanced":
        found.append("it did not start: another process holds memory of one of its GPUs")
    elif log.refused == "too_long":
        found.append("it did not start: the pool is smaller than one request of the longest length")
    elif log.refused == "too_many":
        found.append("it did not start: the pool holds fewer states than sequences were asked for")
    elif log.refused in _FAILED:
        found.append(_FAILED[log.refused])
    elif log.refused == "error":
        down = "did not start" if log.pool_bytes is None and log.pool_tokens is None else "went down"
        why = f"no line says that memory was why: {log.error}" if log.error else "no line says why"
        found.append(f"it {down}, and {why}")
    elif log.refused == "oom":
        when = "in what lies outside the pool"
        if log.pool_bytes is None:
            loaded = log.weights_bytes is not None
            when = "behind the weights, before it had a pool: in the largest step, which is run to measure it"
            when = when if loaded else "while weights were loaded"
        found.append(f"it ran out of GPU memory {when}")
    elif log.refused is None and not any(
        size is not None for size in (log.pool_bytes, log.pool_tokens, log.blocks, log.capacity_tokens)
    ):
        found.append(
            "the log ends before it says how large the pool is: cut off, or the server was still starting"
        )
    return found


def _budget(log: Account) -> list[str]:
    if log.pool_option is not None and log.pool_bytes is not None:
        free = f" of {format_bytes(log.free_bytes)} that were free" if log.free_bytes is not None else ""
        how = (
            "as an earlier start measured it"
            if log.pool_option == STARTUP_PLAN
            else f"set by hand with {log.pool_option}"
        )
        return [f"{format_bytes(log.pool_bytes)}{free} are the cache's, {how}", *_draft(log)]
    if log.engine == "sglang":
        return [*_static_share(log), *_draft(log)]
    if log.total_bytes is None or log.utilization is None or log.budget_bytes is None:
        return []
    share = f"{format_bytes(log.total_bytes)} in all x {log.utilization:g} utilization"
    return [f"{share} = {format_bytes(log.budget_bytes)} for everything"]


def _static_share(log: Account) -> list[str]:
    """SGLang's own sum: what was free, times its share, less the weights."""
    if log.free_bytes is None or log.utilization is None or log.weights_bytes is None:
        return []
    may = log.free_bytes * log.utilization
    weights, text = log.weights_bytes, f"{format_bytes(log.weights_bytes)} weights"
    if log.draft_is_loaded_first and log.draft_weights_bytes is not None:
        weights += log.draft_weights_bytes
        text += f" - {format_bytes(log.draft_weights_bytes)} of the draft model's"
    text = (
        f"{format_bytes(log.free_bytes)} free x {log.utilization:g} mem_fraction_static "
        f"= {format_bytes(may)} for weights and pool - {text} = {format_bytes(may - weights)} for the pool"
    )
    if log.state_bytes:
        text += f", of which {format_bytes(log.state_bytes)} hold the states of recurrent layers"
    return [text]


def _draft(log: Account) -> list[str]:
    parts = [
        f"{format_bytes(size)} {what}"
        for size, what in ((log.draft_weights_bytes, "of weights"), (log.draft_pool_bytes, "of cache"))
        if size is not None
    ]
    return [f"the draft model takes {' and '.join(parts)} beside the model it drafts for"] if parts else []


def _shares(log: Account) -> list[str]:
    if (
        log.engine == "sglang"
        or log.pool_option is not None
        or log.budget_bytes is None
        or log.weights_bytes is None
        or log.pool_bytes is None
    ):
        return []
    peak = "activation peak with CUDA graphs" if log.graphs_in_activation else "activation peak"
    shares = (
        (log.activation_bytes, peak, "activations"),
        (log.runtime_bytes, "outside PyTorch", "runtime"),
        (log.planned_graph_bytes, "CUDA graphs", "CUDA graphs"),
    )
    parts = [f"{format_bytes(log.weights_bytes)} weights"]
    parts += [f"{format_bytes(size)} {name}" for size, name, _ in shares if size is not None]
    rest = log.remainder_bytes or 0
    text = f"{format_bytes(log.budget_bytes)} - {' - '.join(parts)}"
    tolerance = 3 * 0.005 * (1 << 30)  # logs round to hundredths of a GiB
    if rest > tolerance:
        unnamed = [name for size, _, name in shares[:2] if size is None]
        unnamed += ["CUDA graphs"] if _may_plan_graphs(log) else []
        what = f" ({', '.join(unnamed)})" if unnamed else ""
        text += f" - {format_bytes(rest)} the log does not itemise{what}"
    return [f"{text} = {format_bytes(log.pool_bytes)} for the cache"]


def _may_plan_graphs(log: Account) -> bool:
    """Whether this vLLM can have taken CUDA graphs out of the budget without a line that says so."""
    if log.planned_graph_bytes is not None or log.graphs_in_activation:
        return False
    release = named_release(log.version)
    return release is None or parse_version(release) >= PLANS_GRAPHS


def _meaning(log: Account) -> list[str]:
    found = []
    rate, capacity = log.bytes_per_token, log.capacity_tokens
    if rate is not None:
        assert log.pool_bytes is not None
        found.append(
            f"{format_bytes(log.pool_bytes)} / {format_tokens(log.pool_tokens or 0)} tokens "
            f"= {rate:,.0f} B a token on one GPU"
        )
    if (
        log.engine == "sglang"
        and log.refused is None
        and 0 < (log.pool_tokens or 0) < (log.context_tokens or 0)
    ):
        found.append(
            f"requests may have {format_tokens(log.context_tokens or 0)} tokens, and the pool holds fewer: "
            "longer ones than the pool are cut or refused"
        )
    if log.dp is not None and log.dp > 1 and log.pool_tokens is not None:
        found.append(
            f"each of {log.dp} data-parallel ranks has such a pool: "
            f"{format_tokens(log.dp * log.pool_tokens)} tokens in all"
        )
    if log.window_tokens is not None and log.pool_tokens is not None:
        found.append(
            f"two pools in one: {format_tokens(log.pool_tokens)} tokens of the layers without a window, "
            f"{format_tokens(log.window_tokens)} of those with one"
        )
    if log.host_bytes:
        found.append(f"{format_bytes(log.host_bytes)} of the host keep what leaves the pool")
    if capacity:
        found.append(_concurrency(log, capacity))
    return found


def _concurrency(log: Account, capacity: int) -> str:
    """Why so many requests of full length fit at once, and no more."""
    longest = f"{log.concurrency:,.2f} requests of {format_tokens(log.context_tokens or 0)} tokens"
    shorter = "of shorter ones more run at once"
    if not log.pool_tokens:
        return f"{longest} at once are a pool of about {format_tokens(capacity)} tokens: {shorter}"
    ratio = capacity / log.pool_tokens
    if abs(ratio - 1) > 0.02:
        return (
            f"concurrency x context is {format_tokens(capacity)} tokens, {ratio:.2f}x the token line: "
            "layers differ, and the token line bills every layer alike (vLLM before 0.20.1); trust the "
            "concurrency"
        )
    return f"the pool's {format_tokens(log.pool_tokens)} tokens are {longest}: {shorter}"
