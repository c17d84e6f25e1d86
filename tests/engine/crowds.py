"""Clients that give up, and may try again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from hypothesis import strategies as st

from kvplan.engine.arrivals import Arrivals
from kvplan.engine.clients import Conversations, InFlightLimit
from kvplan.engine.impatient import Impatient
from kvplan.engine.patience import Patience
from kvplan.traces.request import Request


@dataclass(frozen=True)
class Crowd:
    """What clients do."""

    patience: Patience
    retries: int
    again_s: float
    limit: int | None
    conversations: bool

    def arrivals(self, workload: list[Request]) -> Impatient:
        inner = Conversations(workload, 0.003) if self.conversations else Arrivals(workload)
        if self.limit is not None:
            inner = InFlightLimit(inner, self.limit, 0.003)
        return Impatient(inner, self.patience, self.retries, self.again_s, 0.003)


waits = st.sampled_from([inf, 0.0, 0.004, 0.006, 0.0101, 0.02, 0.033, 0.06, 0.2])
crowds = st.builds(
    Crowd,
    st.builds(Patience, waits, waits),
    st.sampled_from([0, 0, 1, 3]),
    st.sampled_from([0.0, 0.005, 0.05]),
    st.sampled_from([None, None, 1, 3]),
    st.booleans(),
)


@st.composite
def conversing(draw: st.DrawFn, workload: Sequence[Request]) -> list[Request]:
    """Some of the requests belong to a session, and some follow an earlier one."""
    found: list[Request] = []
    for request in workload:
        follows = None
        if found and draw(st.booleans()):
            follows = draw(st.sampled_from(found)).id, draw(st.sampled_from([0.0, 0.0, 0.004, 0.1]))
        session = draw(st.sampled_from([None, None, "p", "q"]))
        found.append(request._replace(follows=follows, session=session))
    return found
