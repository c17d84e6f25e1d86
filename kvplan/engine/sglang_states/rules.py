"""What SGLang does with recurrent states: how many it has room for, and where it keeps one."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

from kvplan.engine.sglang.config import SglangConfig
from kvplan.errors import UsageError

TRACK_INTERVAL = 256
"""``--mamba-track-interval``: every so many tokens a decoding request keeps its state."""


@dataclass(frozen=True, slots=True)
class StateRules:
    """The pool of states and the strategy (``--mamba-radix-cache-strategy``) of one engine instance.

    Attributes:
        slots: states that requests and the tree can have together (``max_mamba_cache_size``).
        chunk: tokens after which the kernels of prefill have a state (``mamba_chunk_size``, or 64).
        spare: ``extra_buffer``: a request has spare slots, in which kernels leave states on their way. Else,
            ``no_buffer``, only the state behind the last token can be kept, and nothing may run ahead.
        interval: as ``TRACK_INTERVAL``, where it is another.
    """

    slots: int
    chunk: int = 64
    spare: bool = True
    interval: int = TRACK_INTERVAL

    def __post_init__(self) -> None:
        for name in ("slots", "chunk", "interval"):
            if getattr(self, name) < 1:
                raise UsageError(f"recurrent states: {name} is {getattr(self, name)}; it must be at least 1")

    def spares(self, config: SglangConfig) -> int:
        """Spare slots of a request (``get_mamba_tracking_slots``); without a radix cache nothing is kept."""
        if not self.spare or config.disable_radix_cache:
            return 0
        return 1 if config.disable_overlap_schedule else 2

    def slots_per_request(self, config: SglangConfig) -> int:
        """Slots that SGLang counts on for each (``_calculate_mamba_ratio``): besides those it takes itself,
        the state in the tree that it holds, and one on its way there."""
        return 1 if config.disable_radix_cache else 3 + self.spares(config)

    def grid(self, config: SglangConfig) -> int:
        """Tokens between two states that prefill can keep (``mamba_checkpoint_grid``)."""
        return max(self.chunk, config.page_size)

    def track(self, config: SglangConfig) -> int:
        """Tokens between two states that decoding keeps (``mamba_track_grid``)."""
        return lcm(self.grid(config), self.interval)

    def check(self, config: SglangConfig) -> None:
        """Refuse what SGLang refuses, and pools in which requests could run out of slots.

        Raises:
            UsageError: the strategy does not go with these options, or the pool is too small for them.
        """
        page, chunk = config.page_size, self.chunk
        if config.tree != "unified":
            raise UsageError(
                "the classic radix cache keeps no states: they are part of the unified one",
                where="engine.tree",
                hint="leave the tree at unified",
            )
        if max(page, chunk) % min(page, chunk):
            raise UsageError(
                f"of pages of {page} tokens and states every {chunk} one must divide the other in SGLang",
                where="engine.page_size",
                hint=f"use a page_size that divides {chunk}",
            )
        if not self.spare and not config.disable_radix_cache:
            if page > 1:
                raise UsageError(
                    f"without spare states a prefix ends at any token, so pages of {page} tokens do not go "
                    "with them; SGLang does not start either",
                    where="engine.page_size",
                    hint="use 1",
                )
            if not config.disable_overlap_schedule:
                raise UsageError(
                    "without spare states no batch may be made ahead; SGLang does not start either",
                    where="engine.disable_overlap_schedule",
                    hint="set it to true",
                )
        most = self.slots // self.slots_per_request(config)
        if config.max_running_requests > most:
            raise UsageError(
                f"{self.slots} slots for states let {most} requests run at a time, not "
                f"{config.max_running_requests}: each may need {self.slots_per_request(config)}",
                where="engine.max_running_requests",
                hint=f"use {most} at most, or leave more memory to states" if most else
                "use a GPU with more memory, or more of them",
            )  # fmt: skip
