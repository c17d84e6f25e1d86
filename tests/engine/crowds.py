"""Clients that give up, and may try again."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from hypothesis import strategies as st

from kvplan.engine.arrivals import Arrivals
from kvplan.engine.clients import InFlightLimit
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

    def arrivals(self, workload: list[Request]) -> Impatient:
        inner = Arrivals(workload)
        if self.limit is not None:
            inner = InFlightLimit(inner, self.limit, 0.003)
        return Impatient(inner, self.patience, self.retries, self.again_s)


waits = st.sampled_from([inf, 0.0, 0.004, 0.006, 0.0101, 0.02, 0.033, 0.06, 0.2])
crowds = st.builds(
    Crowd,
    st.builds(Patience, waits, waits),
    st.sampled_from([0, 0, 1, 3]),
    st.sampled_from([0.0, 0.005, 0.05]),
    st.sampled_from([None, None, 1, 3]),
)
