"""Host memory below SGLang's cache as a strategy: plain values a scenario is translated to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kvplan.engine.config import EngineConfig
from kvplan.engine.hicache.copies import Copies, GatheredLine
from kvplan.engine.hicache.host import HostMemory
from kvplan.engine.hicache.index import WRITE_POLICIES, HierarchicalIndex, WritePolicy
from kvplan.engine.hicache.replica import HierarchicalReplica
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.tiers.line import Carrier
from kvplan.errors import UsageError

if TYPE_CHECKING:
    from kvplan.engine.hicache.states.index import HostedStateIndex
    from kvplan.engine.hicache.windows.index import HostedWindowIndex
    from kvplan.engine.sglang_states.rules import StateRules
    from kvplan.engine.sglang_states.strategy import RecurrentStates
    from kvplan.engine.sglang_windows.strategy import WindowPools
    from kvplan.engine.sglang_windows.windows import SlidingWindows
    from kvplan.engine.speculation.strategy import Speculation


@dataclass(frozen=True, slots=True)
class HierarchicalCache:
    """``--enable-hierarchical-cache`` without storage.

    Attributes:
        page_bytes: bytes of one page, all GPUs of the replica together.
        pages: what the host's pool holds.
        put, get: how long copies to the host and from it take, alone on the link.
        write: ``--hicache-write-policy``.
        beside_bytes, host_beside: bytes of a unit of what lies beside tokens, a recurrent state or a page of
            windows, and how many of them the host's other pool holds.
        states, windows: of a model that has them.
        drafts: of an engine that drafts; its pages have what the drafter keeps, too.
    """

    behind_router: ClassVar[bool] = True
    page_bytes: int
    pages: int
    put: Carrier
    get: Carrier
    write: WritePolicy = "write_through"
    beside_bytes: int = 0
    host_beside: int = 0
    states: StateRules | None = None
    windows: SlidingWindows | None = None
    drafts: Speculation | None = None

    def __post_init__(self) -> None:
        if self.page_bytes < 1 or self.pages < 0:
            raise UsageError(
                f"the host holds {self.pages} pages of {self.page_bytes} bytes",
                hint="pages are at least 0 and bytes at least 1",
            )
        if self.write not in WRITE_POLICIES:
            raise UsageError(f"unknown write policy {self.write!r}", hint=f"use {', '.join(WRITE_POLICIES)}")

    @property
    def name(self) -> str:
        """As a scenario calls it."""
        return "tiers"

    def with_drafts(self, drafts: Speculation) -> HierarchicalCache:
        """The same on an engine that drafts."""
        return replace(
            self, drafts=drafts, states=drafts.states or self.states, windows=drafts.windows or self.windows
        )

    def with_pool(self, pool: RecurrentStates | WindowPools) -> HierarchicalCache:
        """The same for a model with recurrent layers, or with windows that have a pool of their own."""
        return replace(
            self,
            states=getattr(pool, "rules", self.states),
            windows=getattr(pool, "windows", self.windows),
        )

    def engine(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> HierarchicalReplica:
        """Not below vLLM.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "this host tier is SGLang's; vLLM's is another", where="engine.kind", hint="use sglang"
        )

    def sglang_engine(
        self, config: SglangConfig, latency: LatencyModel, recorder: Recorder
    ) -> HierarchicalReplica:
        """One replica above its own host memory.

        Raises:
            UsageError: the engine has no radix cache, or the classic one; see ``StateRules.check``,
                ``SlidingWindows.check`` and ``Speculation.check_states``.
        """
        if self.states is not None:
            return self._with_states(self.states, config, latency, recorder)
        if self.windows is not None:
            return self._with_windows(self.windows, config, latency, recorder)
        index, drafts = self.index(config), self.drafts
        if drafts is None:
            return HierarchicalReplica(config, latency, recorder, index)
        from kvplan.engine.speculation.sglang.hicache import DraftedHierarchicalReplica

        return DraftedHierarchicalReplica(
            drafts.unmixed(config), latency, recorder, rules=drafts.rules, acceptance=drafts.acceptance,
            index=index,
        )  # fmt: skip

    def index(self, config: SglangConfig) -> HierarchicalIndex:
        """The cache of one engine that keeps nothing beside tokens, empty.

        Raises:
            UsageError: as ``check``.
        """
        self.check(config)
        return HierarchicalIndex(config.page_size, config.leaf_key, self.write, *self._memory(config))

    def state_index(self, config: SglangConfig, states: StateRules) -> HostedStateIndex:
        """The cache of one engine for a model with recurrent states, empty.

        Raises:
            UsageError: as ``check`` and ``StateRules.check``.
        """
        from kvplan.engine.hicache.states.index import HostedStateIndex
        from kvplan.engine.hicache.states.memory import HostStates

        self.check(config)
        states.check(config)
        memory = HostStates(self.host_beside)
        return HostedStateIndex(config.page_size, config.leaf_key, self.write, *self._memory(config), memory)

    def window_index(self, config: SglangConfig, windows: SlidingWindows) -> HostedWindowIndex:
        """The cache of one engine for a model whose windows have a pool of their own, empty.

        Raises:
            UsageError: as ``check`` and ``SlidingWindows.check``.
        """
        from kvplan.engine.hicache.windows.index import HostedWindowIndex
        from kvplan.engine.hicache.windows.memory import HostWindows

        self.check(config)
        windows.check(config)
        memory = HostWindows(self.host_beside * config.page_size)
        return HostedWindowIndex(
            config.page_size, config.leaf_key, self.write, *self._memory(config), memory, windows
        )

    def _memory(self, config: SglangConfig) -> tuple[HostMemory, Copies]:
        copies = Copies(
            GatheredLine("to_host", self.put, self.page_bytes, self.beside_bytes),
            GatheredLine("from_host", self.get, self.page_bytes, self.beside_bytes),
            config.page_size,
        )
        return HostMemory(self.pages * config.page_size), copies

    def _with_states(
        self, states: StateRules, config: SglangConfig, latency: LatencyModel, recorder: Recorder
    ) -> HierarchicalReplica:
        from kvplan.engine.hicache.states.replica import HostedStateReplica

        index, drafts = self.state_index(config, states), self.drafts
        if drafts is None:
            return HostedStateReplica(config, latency, recorder, states, index)
        from kvplan.engine.speculation.sglang.hicache_states import DraftedHostedStateReplica

        drafts.check_states(config)
        return DraftedHostedStateReplica(
            drafts.unmixed(config), latency, recorder, rules=drafts.rules, acceptance=drafts.acceptance,
            states=states, index=index,
        )  # fmt: skip

    def _with_windows(
        self, windows: SlidingWindows, config: SglangConfig, latency: LatencyModel, recorder: Recorder
    ) -> HierarchicalReplica:
        from kvplan.engine.hicache.windows.replica import HostedWindowReplica

        index, drafts = self.window_index(config, windows), self.drafts
        if drafts is None:
            return HostedWindowReplica(config, latency, recorder, windows, index)
        from kvplan.engine.speculation.sglang.hicache_windows import DraftedHostedWindowReplica

        return DraftedHostedWindowReplica(
            drafts.unmixed(config), latency, recorder, rules=drafts.rules, acceptance=drafts.acceptance,
            windows=windows, index=index,
        )  # fmt: skip

    @staticmethod
    def check(config: SglangConfig) -> None:
        """Refuse caches that do not go on in the host.

        Raises:
            UsageError: as ``sglang_engine``.
        """
        if config.disable_radix_cache:
            raise UsageError(
                "without a radix cache there is nothing to keep in the host: SGLang refuses "
                "--disable-radix-cache with --enable-hierarchical-cache",
                where="tiers",
                hint="turn the prefix cache on (cache.prefix: radix), or leave the tiers out",
            )
        if config.tree != "unified":
            raise UsageError(
                "the classic radix cache does not go on in the host: HiCache is part of the unified one",
                where="tiers",
                hint="leave the tree at unified",
            )
