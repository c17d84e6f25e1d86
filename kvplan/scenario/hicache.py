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
from kvplan.units import format_bytes, format_tokens

if TYPE_CHECKING:
    from kvplan.scenario.deployment import Deployment

POLICIES: dict[str, WritePolicy] = {
    "through": "write_through", "selective": "write_through_selective", "back": "write_back",
}  # fmt: skip
"""What SGLang calls the ways to write."""

GIGABYTE = 10**9
"""The unit of ``--hicache-size``."""


@dataclass(frozen=True, slots=True)
class HostPage:
    """Bytes of one page on all GPUs of the replica together.

    Attributes:
        total_bytes: what travels.
        beside_bytes: of these, what lies in a host pool of its own, which has as many pages as the one that
            is sized and comes on top of it.
    """

    total_bytes: int
    beside_bytes: int = 0

    @property
    def sized_bytes(self) -> int:
        """Of the pool whose memory is given."""
        return self.total_bytes - self.beside_bytes


def beside_bytes(deployment: Deployment) -> int:
    """Bytes of a page that a drafter has in a host pool of its own (``HiCacheDraftMode``); 0 without one.

    Prediction layers of the model's own are packed behind its layers, into its host pool; those of another
    drafter are a sidecar.

    Raises:
        UsageError: it has more layers than the model, whose transfers they go along with.
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
    host: HostTierPart, config: SglangConfig, page: HostPage, put: Transfer, get: Transfer
) -> Chosen:
    """The strategy, and what it assumes.

    Args:
        page: what lies in the host for each page on the device.
        put, get: the ways to the host and back.

    Raises:
        UsageError: the host holds no page.
    """
    pages = host_pages(host.memory, page.sized_bytes, config.page_size)
    tokens = pages * config.page_size
    strategy = HierarchicalCache(page.total_bytes, pages, put, get, POLICIES[host.write])
    explained = [
        Assumption("tiers.host.tokens", tokens, "as SGLang sizes its pool: whole pages, and one for padding"),
    ]
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


def host_pages(memory: int, page_bytes: int, page_size: int) -> int:
    """Pages of SGLang's host pool (``HostKVCache``): the whole ones of its tokens, and one for padding.

    Raises:
        UsageError: there is not one.
    """
    pages = memory * page_size // page_bytes // page_size
    if not pages:
        raise UsageError(
            f"the host tier of {format_bytes(memory)} holds no page of {format_bytes(page_bytes)}",
            where="tiers.host.memory",
            hint="give it more, or leave the tiers out",
        )
    return pages + 1


def hicache_flags(host: HostTierPart, config: SglangConfig, page: HostPage, gpus: int) -> str:
    """What ``sglang.launch_server`` is told for this host tier.

    ``--hicache-size`` takes whole gigabytes a GPU; any other size is a ratio to the GPU's pool.
    """
    whole, rest = divmod(host.memory, GIGABYTE * gpus)
    size = f"--hicache-size {whole}"
    if rest:
        tokens = (host_pages(host.memory, page.sized_bytes, config.page_size) - 1) * config.page_size
        # Half a token more, so that rounding the ratio does not take one away.
        size = f"--hicache-ratio {(tokens + 0.5) / config.pool_tokens:.9g}"
    return f"--enable-hierarchical-cache {size} --hicache-write-policy {POLICIES[host.write]}"
