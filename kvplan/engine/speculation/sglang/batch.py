"""The requests that decode, each at its own pace."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import cast

from kvplan.engine.sglang.live import DecodeBatch, SglangRequest
from kvplan.engine.speculation.sglang.request import DraftedRequest


class DraftedBatch(DecodeBatch):
    """A decode batch whose members are counted one by one; ``members`` are in batch order.

    Args:
        page_size, clip: as of the base class.
        reserve: places beyond what is known to stand that a member has before every step
            (``get_alloc_reserve_per_decode``).
    """

    __slots__ = ("reserve",)

    def __init__(self, page_size: int, clip: int, reserve: int) -> None:
        super().__init__(page_size, clip)
        self.reserve = reserve

    def __iter__(self) -> Iterator[DraftedRequest]:
        return iter(cast("dict[DraftedRequest, None]", self.members))

    def append(self, requests: list[SglangRequest], in_flight: int) -> None:
        """As the base class."""
        self.members.update(dict.fromkeys(self._joining(requests, in_flight)))

    def prepend(self, requests: list[SglangRequest], in_flight: int) -> None:
        """As the base class."""
        self.members = {**dict.fromkeys(self._joining(requests, in_flight)), **self.members}

    def _joining(self, requests: list[SglangRequest], in_flight: int) -> list[SglangRequest]:
        for request in cast("list[DraftedRequest]", requests):
            request.ahead = in_flight
            request.room = request.computed
            request.ticket = 1
        self.count += len(requests)
        return requests

    def leave(self, request: SglangRequest) -> None:
        """Take it out."""
        request.ticket = 0
        self.count -= 1
        del self.members[request]

    def outputs_of(self, request: SglangRequest) -> int:
        """As the base class."""
        return request.outputs

    @property
    def tokens(self) -> int:
        """As the base class."""
        return sum(request.tokens for request in self)

    @property
    def boundary_pages(self) -> int:
        """As the base class."""
        return sum(self.places(request) - request.held.allocated for request in self) // self.page_size

    def places(self, request: DraftedRequest) -> int:
        """Tokens, whole pages, a member has places for in the next step."""
        page = self.page_size
        return -(-(request.computed + self.reserve) // page) * page

    @property
    def reserved(self) -> int:
        """As the base class."""
        clip = self.clip
        return sum(min(request.max_new_tokens - request.outputs, clip) for request in self)

    def shares(self, ratio: float, fresh: Collection[SglangRequest]) -> float:
        """As the base class; all members count what is known."""
        total = 0.0
        for request in self:
            total += min(request.max_new_tokens - request.outputs, self.clip) * ratio
        return total

    def finishing(self, tick: int) -> list[SglangRequest]:
        """Take out the members of the batch in flight that have their last output with it even if no draft
        stands."""
        found: list[SglangRequest] = [
            request for request in self if request.ahead and request.outputs + 1 >= request.max_new_tokens
        ]
        for request in found:
            self.leave(request)
        return found

    def in_order(self) -> list[SglangRequest]:
        """As the base class."""
        return list(self.members)

    def reorder(self, requests: list[SglangRequest]) -> None:
        """As the base class."""
        self.members = dict.fromkeys(requests)
