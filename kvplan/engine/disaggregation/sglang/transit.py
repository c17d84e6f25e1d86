"""One request on its way through both pools."""

from __future__ import annotations

from kvplan.engine.disaggregation.journey import UNSET
from kvplan.engine.sglang.live import MIXED_IN, SglangRequest
from kvplan.traces.request import Request


class Transit:
    """What happened to one request; times are ``UNSET`` until they are known.

    Attributes:
        prefill, decode: the instances; -1 until they are chosen.
        prefill_rank, decode_rank: which members of them.
        before: what is asked of the prefill instance.
        held, offered: the request as the two know it.
        sent_pages: pages of the prompt that are on their way or have come.
        refused: the decode instance had no room for it when it came.
        reserved_s, prefilled_s, arrived_s: the decode instance has room, the prompt is computed, its cache
            has come.
    """

    __slots__ = (
        "arrived_s", "before", "decode", "decode_rank", "held", "offered", "prefill", "prefill_rank",
        "prefilled_s", "refused", "request", "reserved_s", "sent_pages",
    )  # fmt: skip

    held: HandedRequest
    offered: HandedRequest

    def __init__(self, request: Request) -> None:
        self.request = request
        self.prefill = self.decode = -1
        self.prefill_rank = self.decode_rank = 0
        # The prefill server wants one token of whatever it is sent (``_process_req``).
        self.before = request._replace(output=(), output_tokens=1)
        self.sent_pages = 0
        self.refused = False
        self.reserved_s = self.prefilled_s = self.arrived_s = UNSET

    def reaches(self, prefill: SglangRequest, decode: SglangRequest) -> None:
        """Both instances have it now, as these."""
        assert isinstance(prefill, HandedRequest)
        assert isinstance(decode, HandedRequest)
        self.held, self.offered = prefill, decode
        prefill.transit = decode.transit = self

    def marks(self) -> tuple[float, ...]:
        """When each part of the way to the first token ended, its arrival first."""
        return (
            self.request.arrival_s, self.reserved_s, self.held.scheduled_s, self.prefilled_s, self.arrived_s,
            self.offered.first_token_s,
        )  # fmt: skip


HANDED_COUNTERS = ("looked", "number", "transit")
"""Attributes of a ``HandedRequest``, for the classes that mix it in."""


class HandedRequest(SglangRequest):
    """A request as one of the two instances sees it. Mixed into one.

    Attributes:
        transit: its whole way.
        number: how many came to the instance before it.
        looked: how often the instance had looked for room when it came.
    """

    __slots__ = MIXED_IN

    looked: int
    number: int
    transit: Transit

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.number = self.looked = 0


class HandedSglangRequest(HandedRequest):
    """One whose layers all keep their context."""

    __slots__ = HANDED_COUNTERS


def transit_of(request: SglangRequest) -> Transit:
    """The way that a request of an instance belongs to."""
    assert isinstance(request, HandedRequest)
    return request.transit
