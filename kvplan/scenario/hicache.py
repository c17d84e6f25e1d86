"""From ``tiers.host`` below SGLang to its HiCache: pages, links, and the flags that give it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kvplan.engine.hicache.index import WritePolicy
from kvplan.engine.hicache.strategy import HierarchicalCache
from kvplan.engine.sglang.config import SglangConfig
from kvplan.errors import UsageError
from kvplan.latency.assumption import Assumption
from kvplan.latency.transfer import Transfer, slower
from kvplan.scenario.chosen import Chosen
from kvplan.scenario.schema.tiers import HostTierPart, TiersPart
from kvplan.scenario.sglang_states import state_rules
from kvplan.sizing.sglang.pool import states_taken
from kvplan.units import format_bytes, format_tokens

if TYPE_CHECKING:
    from kvplan.scenario.deployment import Deployment
    from kvplan.scenario.schema import Scenario

POLICIES: dict[str, WritePolicy] = {
    "through": "write_through", "selective": "write_through_selective", "back": "write_back",
}  # fmt: skip
"""What SGLang calls the ways to write."""

GIGABYTE = 10**9
"""The unit of ``--hicache-size``."""


@dataclass(frozen=True, slots=True)
class HostPage:
    """What SGLang's host tier is sized by: bytes on all GPUs of the replica together.

    Attributes:
        total_bytes: of a page, what travels.
        beside_bytes: of these, what lies in a host pool of its own, which has as many pages as the one that
            is sized and comes on top of it.
        pool_bytes: of the device's pool of tokens, its padding included.
        slots: of the device's pool of recurrent states; 0 without one.
        state_bytes: of one state.
        states_bytes: of the device's pool of states.
    """

    total_bytes: int
    beside_bytes: int = 0
    pool_bytes: int = 0
    slots: int = 0
    state_bytes: int = 0
    states_bytes: int = 0

    @property
    def sized_bytes(self) -> int:
        """Of a page, in the pool whose memory is given."""
        return self.total_bytes - self.beside_bytes


def host_page(scenario: Scenario, deployment: Deployment, config: SglangConfig, page_bytes: int) -> HostPage:
    """What a host tier has for each page and each state on the device.

    Raises:
        UsageError: the drafter has more layers than the model, or see ``state_rules``.
    """
    fit = deployment.fit
    beside = _beside_bytes(deployment)
    rules = state_rules(scenario, fit, config.page_size)
    if fit is None or rules is None:
        return HostPage(page_bytes, beside)
    pool, gpus = fit.binding.pool, deployment.parallel.gpus
    tokens = (config.pool_tokens + config.page_size) * pool.target_token_bytes
    taken = states_taken(fit.serving, rules.slots, pool.state_bytes, pool.state_slots)
    return HostPage(
        page_bytes, beside, int(tokens) * gpus, rules.slots, pool.state_bytes * gpus, taken * gpus
    )


def _beside_bytes(deployment: Deployment) -> int:
    """Bytes of a page that a drafter has in a host pool of its own (``HiCacheDraftMode``); 0 without one.

    Prediction layers of the model's own are packed behind its layers, into its host pool; those of another
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
    cell = (pool.token_bytes - pool.target_token_bytes) * pool.block_size
    return -(-cell.numerator // cell.denominator) * deployment.parallel.gpus


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
        gpus: of the replica.
        put, get: the ways to the host and back.

    Raises:
        UsageError: the host holds no page.
    """
    pages, states = host_pools(host.memory, page, config, gpus)
    tokens = pages * config.page_size
    strategy = HierarchicalCache(
        page.total_bytes, pages, put, get, POLICIES[host.write], page.state_bytes, states
    )
    explained = [
        Assumption("tiers.host.tokens", tokens, "as SGLang sizes its pool: whole pages, and one for padding"),
    ]
    if page.slots:
        explained.append(
            Assumption(
                "tiers.host.states", states,
                "recurrent states: the memory is shared out as the GPU's is between both pools",
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
    """Pages and states of SGLang's host pools: the whole ones, and one of each for padding.

    Beside a pool of states the memory is shared out as the device's is, by ``--hicache-size`` in bytes
    (``_split_hicache_size``), by ``--hicache-ratio`` in tokens and states.

    Raises:
        UsageError: there is not one page.
    """
    size = config.page_size
    if not page.slots:
        tokens, states = memory * size // page.sized_bytes, 0
    elif memory % (GIGABYTE * gpus):
        ratio = float(_ratio(memory, page))
        tokens, states = int(config.pool_tokens * ratio), int(page.slots * ratio) + 1
    else:
        share = memory * page.pool_bytes // (page.pool_bytes + page.states_bytes)
        tokens, states = share * size // page.sized_bytes, (memory - share) // page.state_bytes + 1
    if tokens < size:
        raise UsageError(
            f"the host tier of {format_bytes(memory)} holds no page of {format_bytes(page.sized_bytes)}",
            where="tiers.host.memory",
            hint="give it more, or leave the tiers out",
        )
    return tokens // size + 1, states


def _ratio(memory: int, page: HostPage) -> str:
    """Of the host's pools to the device's, of a model with states."""
    return f"{memory / (page.pool_bytes + page.states_bytes):.9g}"


def hicache_flags(host: HostTierPart, config: SglangConfig, page: HostPage, gpus: int) -> str:
    """What ``sglang.launch_server`` is told for this host tier.

    ``--hicache-size`` takes whole gigabytes a GPU; any other size is a ratio to the GPU's pools.
    """
    whole, rest = divmod(host.memory, GIGABYTE * gpus)
    size = f"--hicache-size {whole}"
    if rest and page.slots:
        size = f"--hicache-ratio {_ratio(host.memory, page)}"
    elif rest:
        tokens = (host_pools(host.memory, page, config, gpus)[0] - 1) * config.page_size
        # Half a token more, so that rounding the ratio does not take one away.
        size = f"--hicache-ratio {(tokens + 0.5) / config.pool_tokens:.9g}"
    return f"--enable-hierarchical-cache {size} --hicache-write-policy {POLICIES[host.write]}"
