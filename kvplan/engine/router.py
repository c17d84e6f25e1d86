"""Which replica a request goes to.

A router sees each replica through ``ReplicaView`` at the moment the request arrives; all replicas have been
advanced to that moment. Every choice is a function of what has happened so far, so runs repeat exactly.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

from kvplan.registry import Registry
from kvplan.traces.request import Request


class ReplicaView(Protocol):
    """What a router may know about a replica."""

    @property
    def requests(self) -> int:
        """Requests it has, running and waiting."""
        ...

    @property
    def used_blocks(self) -> int:
        """Blocks that running requests hold."""
        ...

    def cached_blocks_of(self, request: Request) -> int:
        """Blocks of the request's prompt that are in its prefix cache; looking changes nothing."""
        ...

    def prompt_blocks_of(self, request: Request) -> int:
        """Blocks the request's prompt fills."""
        ...


class Router(Protocol):
    """A routing policy."""

    def choose(self, request: Request, replicas: Sequence[ReplicaView]) -> int:
        """Index of the replica that gets the request; replicas are at least one."""
        ...


ROUTERS: Registry[Callable[[], Router]] = Registry("routing policy")


@ROUTERS.register("round-robin")
class RoundRobin:
    """One after the other, whatever they are doing."""

    def __init__(self) -> None:
        self._next = 0

    def choose(self, request: Request, replicas: Sequence[ReplicaView]) -> int:
        """The replica after the last one."""
        del request
        index = self._next % len(replicas)
        self._next = index + 1
        return index


@ROUTERS.register("least-loaded")
class LeastLoaded:
    """The replica with the fewest requests, running and waiting; ties go to the fewest used blocks."""

    def choose(self, request: Request, replicas: Sequence[ReplicaView]) -> int:
        """The least loaded one, the first among equals."""
        del request
        return min(range(len(replicas)), key=lambda i: (replicas[i].requests, replicas[i].used_blocks, i))


@ROUTERS.register("session-affinity")
class SessionAffinity:
    """The replica that served the conversation before; a new one goes to the least loaded.

    A request without a session is treated as a conversation of its own.
    """

    def __init__(self) -> None:
        self._homes: dict[str, int] = {}
        self._fallback = LeastLoaded()

    def choose(self, request: Request, replicas: Sequence[ReplicaView]) -> int:
        """The conversation's home."""
        if request.session is None:
            return self._fallback.choose(request, replicas)
        home = self._homes.get(request.session)
        if home is None:
            home = self._homes[request.session] = self._fallback.choose(request, replicas)
        return home


@ROUTERS.register("consistent-hashing")
class ConsistentHashing:
    """A hash ring over conversations (or, without one, over the first tokens of the prompt).

    Each replica stands at ``POINTS`` places of the ring, so that load spreads evenly and adding a replica
    moves only its share.
    """

    POINTS = 128

    def __init__(self) -> None:
        self._ring: list[tuple[int, int]] = []
        self._size = 0

    def choose(self, request: Request, replicas: Sequence[ReplicaView]) -> int:
        """The first replica after the key's place on the ring."""
        if self._size != len(replicas):
            self._size = len(replicas)
            self._ring = sorted(
                (_place(f"{index}/{point}"), index)
                for index in range(self._size)
                for point in range(self.POINTS)
            )
        key = request.session if request.session is not None else repr(request.prompt[0][0])
        position = bisect.bisect_right(self._ring, (_place(key), self._size))
        return self._ring[position % len(self._ring)][1]


@ROUTERS.register("prefix-aware")
class PrefixAware:
    """The replica where the request costs least: blocks it would have to compute plus blocks in use.

    The rule of Dynamo's KV-aware router: overlap is worth as much as load, block for block.
    """

    def choose(self, request: Request, replicas: Sequence[ReplicaView]) -> int:
        """The cheapest one, the one with fewest requests among equals."""

        def cost(index: int) -> tuple[int, int, int]:
            replica = replicas[index]
            missing = replica.prompt_blocks_of(request) - replica.cached_blocks_of(request)
            return missing + replica.used_blocks, replica.requests, index

        return min(range(len(replicas)), key=cost)


def _place(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def make_router(name: str) -> Router:
    """A fresh router.

    Raises:
        UnknownName: no such policy.
    """
    return ROUTERS.get(name)()
