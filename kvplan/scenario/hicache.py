"""From ``tiers.host`` below SGLang to its HiCache: pages, links, and the flags that give it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from kvplan.engine.hicache.index import WritePolicy
from kvplan.engine.hicache.strategy import HierarchicalCache
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang_windows.strategy import WindowPools
from kvplan.errors import UsageError
from kvplan.latency.assumption import Assumption
from kvplan.latency.transfer import Transfer, slower
from kvplan.scenario.chosen import Chosen
from kvplan.scenario.schema.tiers import HostTierPart, TiersPart
from kvplan.scenario.sglang_states import state_rules
from kvplan.scenario.sglang_windows import sliding_windows
from kvplan.sizing.sglang.names import named
from kvplan.sizing.sglang.pool import states_taken
from kvplan.units import format_bytes, format_tokens

if TYPE_CHECKING:
    from kvplan.scenario.deployment import Deployment
    from kvplan.scenario.schema import Scenario
    from kvplan.sizing.capacity import FitReport

POLICIES: dict[str, WritePolicy] = {
    "through": "write_through", "selective": "write_through_selective", "back": "write_back",
}  # fmt: skip
"""What SGLang calls the ways to write."""

GIGABYTE = 10**9
"""The unit of ``--hicache-size``."""

NO_WINDOW_POOL = ("step35", "step3p5", "step37", "step3p7")
"""Models whose windows lie in the pool of all others where there is a hierarchical cache
(``_step3p_overrides``)."""


@dataclass(frozen=True, slots=True)
class OtherPool:
    """The device's pool beside that of tokens, bytes on all GPUs of the replica together, or of a rank of it.

    Attributes:
        name: what it holds, as assumptions call it.
        size: states, or tokens of windows.
        page: how many of these a unit of it has: 1, or a page of tokens.
        unit_bytes: of a unit.
        pool_bytes: of the whole pool, its padding included.
    """

    name: str
    size: int
    page: int
    unit_bytes: int
    pool_bytes: int


@dataclass(frozen=True, slots=True)
class HostPage:
    """What SGLang's host tier is sized by: bytes on all GPUs of the replica together, or of a rank of it.

    Attributes:
        total_bytes: of a page, what travels.
        beside_bytes: of these, what lies in a host pool of its own, which has as many pages as the one that
            is sized and comes on top of it.
        pool_bytes: of the device's pool of tokens, its padding included.
        other: the device's pool beside it, for which the host has one, too.
    """

    total_bytes: int
    beside_bytes: int = 0
    pool_bytes: int = 0
    other: OtherPool | None = None

    @property
    def sized_bytes(self) -> int:
        """Of a page, in the pool whose memory is given."""
        return self.total_bytes - self.beside_bytes


def host_page(scenario: Scenario, deployment: Deployment, config: SglangConfig, page_bytes: int) -> HostPage:
    """What a host tier has for each page of tokens, and for what the device keeps beside them.

    Args:
        page_bytes: of a page of tokens.

    Raises:
        UsageError: the drafter has more layers than the model, or windows; a model whose windows SGLang gives
            no pool here; or see ``state_rules``.
    """
    fit = deployment.fit
    beside = _beside_bytes(deployment)
    if fit is None:
        return HostPage(page_bytes, beside)
    pool, gpus, page = fit.binding.pool, deployment.sequence_gpus, config.page_size
    windows = sliding_windows(scenario, deployment)
    if windows is not None:
        assert isinstance(windows.strategy, WindowPools)
        _check_windows(fit)
        size = windows.strategy.windows.pool_tokens
        tokens, of_windows = pool.target_bytes_apart
        return HostPage(
            page_bytes, beside, int((config.pool_tokens + page) * tokens) * gpus,
            OtherPool(
                "windows", size, page, _whole(pool.bytes_apart[1] * page) * gpus,
                int((size + page) * of_windows) * gpus,
            ),
        )  # fmt: skip
    rules = state_rules(scenario, fit, page)
    if rules is None:
        return HostPage(page_bytes, beside)
    taken = states_taken(fit.serving, rules.slots, pool.state_bytes, pool.state_slots)
    return HostPage(
        page_bytes, beside, int((config.pool_tokens + page) * pool.target_token_bytes) * gpus,
        OtherPool("states", rules.slots, 1, pool.state_bytes * gpus, taken * gpus),
    )  # fmt: skip


def page_bytes_of(scenario: Scenario, deployment: Deployment, block_bytes: int) -> int:
    """Of a page of tokens, on all GPUs that have a sequence: without its share of a pool for windows.

    Args:
        block_bytes: with it.
    """
    fit = deployment.fit
    if fit is None or sliding_windows(scenario, deployment) is None:
        return block_bytes
    pool = fit.binding.pool
    return _whole(pool.bytes_apart[0] * pool.block_size) * deployment.sequence_gpus


def _whole(size: Fraction) -> int:
    return -(-size.numerator // size.denominator)


def _check_windows(fit: FitReport) -> None:
    if named(fit.model, *NO_WINDOW_POOL):
        raise UsageError(
            f"SGLang gives windows of {fit.model.name} no pool of their own beside a hierarchical cache "
            "(disable_hybrid_swa_memory), which is not simulated",
            where="tiers",
            hint="leave the tiers out for this model",
        )


def _beside_bytes(deployment: Deployment) -> int:
    """Bytes of a page that a drafter has in a host pool of its own (``HiCacheDraftMode``); 0 without one.

    Prediction layers of the model's own are packed behind its layers, into its host pools; those of another
    drafter are a sidecar.
    """
    fit = deployment.fit
    if fit is None or fit.drafter is None:
        return 0
    if len(fit.drafter.layers()) > len(fit.model.layers()):
        raise UsageError(
            f"{fit.drafter.name} has more layers than {fit.model.name}, with whose transfers theirs go: "
            "SGLang does not start",
            where="tiers.host",
            hint="use a smaller speculative.model, or leave the tiers out",
        )
    pool = fit.binding.pool
    (tokens, windows), (target_tokens, target_windows) = pool.bytes_apart, pool.target_bytes_apart
    if windows != target_windows:
        raise UsageError(
            f"{fit.drafter.name} drafts with windows of its own, of which SGLang copies nothing else to the "
            "host; that is not simulated",
            where="tiers.host",
            hint="use another speculative.model, or leave the tiers out",
        )
    return _whole((tokens - target_tokens) * pool.block_size) * deployment.sequence_gpus


def check(part: TiersPart, config: SglangConfig) -> None:
    """Refuse what SGLang's host tier does not have, or what is not simulated of it.

    Raises:
        UsageError: a disk, another number format, or no radix cache.
    """
    if part.disk is not None:
        raise UsageError(
            "what SGLang keeps below the host is storage (--hicache-storage-backend), which is not simulated",
            where="tiers.disk",
            hint="leave tiers.disk out",
        )
    if part.host.dtype is not None:
        raise UsageError(
            "SGLang copies its cache to the host as it is, in no other number format",
            where="tiers.host.dtype",
            hint="leave it out, or give the cache itself another format (cache.dtype)",
        )
    if part.host.connector is not None:
        raise UsageError(
            "the offloading connector is vLLM's; SGLang's host tier is what it has without one",
            where="tiers.host.connector",
            hint="leave it out",
        )
    HierarchicalCache.check(config)


def host_cache(
    host: HostTierPart, config: SglangConfig, page: HostPage, gpus: int, put: Transfer, get: Transfer
) -> Chosen:
    """The strategy, and what it assumes.

    Args:
        page: what lies in the host for each page and state on the device.
        gpus: of the replica, or of a rank of it.
        put, get: the ways to the host and back.

    Raises:
        UsageError: the host holds no page.
    """
    pages, units = host_pools(host.memory, page, config, gpus)
    tokens = pages * config.page_size
    other = page.other
    strategy = HierarchicalCache(
        page.total_bytes, pages, put, get, POLICIES[host.write],
        0 if other is None else other.unit_bytes, units,
    )  # fmt: skip
    explained = [
        Assumption("tiers.host.tokens", tokens, "as SGLang sizes its pool: whole pages, and one for padding"),
    ]
    if other is not None:
        what = "recurrent states" if other.page == 1 else "tokens of windows"
        explained.append(
            Assumption(
                f"tiers.host.{other.name}", units * other.page,
                f"{what}: the memory is shared out as the GPU's is between both pools",
            )
        )  # fmt: skip
    if page.beside_bytes:
        explained.append(
            Assumption(
                "tiers.host.drafter_bytes", pages * page.beside_bytes,
                "the drafter's own host pool, of as many tokens: it comes on top of tiers.host.memory",
            )
        )  # fmt: skip
    explained += get.assumptions()
    if put.assumptions() != get.assumptions():
        explained += put.assumptions()
    explained.append(
        Assumption(
            "tiers.copies",
            "one operation each",
            "a kernel gathers the pages of a transfer; a step that loads ends after its load",
        )
    )
    warnings = []
    if tokens <= config.pool_tokens:
        warnings.append(
            f"the host holds {format_tokens(tokens)} tokens, the GPU {format_tokens(config.pool_tokens)}: "
            "SGLang warns, too, that a host does little where it is no larger"
        )
    return Chosen(
        strategy,
        tuple(explained),
        tuple(warnings),
        perturbed=lambda draw: replace(strategy, put=slower(put, draw[0]), get=slower(get, draw[0])),
    )


def host_pools(memory: int, page: HostPage, config: SglangConfig, gpus: int) -> tuple[int, int]:
    """Pages of SGLang's host pool of tokens, and units of the one beside it: the whole ones, and one of each
    for padding.

    Beside another pool the memory is shared out as the device's is, by ``--hicache-size`` in bytes
    (``_split_hicache_size``), by ``--hicache-ratio`` in what each holds.

    Raises:
        UsageError: there is not one page.
    """
    size, other = config.page_size, page.other
    if other is None:
        tokens, units = memory * size // page.sized_bytes, 0
    elif memory % (GIGABYTE * gpus):
        ratio = float(_ratio(memory, page, other))
        tokens, units = int(config.pool_tokens * ratio), int(other.size * ratio) // other.page + 1
    else:
        share = memory * page.pool_bytes // (page.pool_bytes + other.pool_bytes)
        tokens, units = share * size // page.sized_bytes, (memory - share) // other.unit_bytes + 1
    if tokens < size:
        raise UsageError(
            f"the host tier of {format_bytes(memory)} holds no page of {format_bytes(page.sized_bytes)}",
            where="tiers.host.memory",
            hint="give it more, or leave the tiers out",
        )
    return tokens // size + 1, units


def _ratio(memory: int, page: HostPage, other: OtherPool) -> str:
    """Of the host's pools to the device's."""
    return f"{memory / (page.pool_bytes + other.pool_bytes):.9g}"


def hicache_flags(host: HostTierPart, config: SglangConfig, page: HostPage, gpus: int) -> str:
    """What ``sglang.launch_server`` is told for this host tier.

    ``--hicache-size`` takes whole gigabytes a GPU; any other size is a ratio to the GPU's pools.
    """
    whole, rest = divmod(host.memory, GIGABYTE * gpus)
    size = f"--hicache-size {whole}"
    if rest and page.other is not None:
        size = f"--hicache-ratio {_ratio(host.memory, page, page.other)}"
    elif rest:
        tokens = (host_pools(host.memory, page, config, gpus)[0] - 1) * config.page_size
        # Half a token more, so that rounding the ratio does not take one away.
        size = f"--hicache-ratio {(tokens + 0.5) / config.pool_tokens:.9g}"
    return f"--enable-hierarchical-cache {size} --hicache-write-policy {POLICIES[host.write]}"
