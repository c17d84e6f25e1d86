"""Small random workloads, some of whose prompts begin alike."""

from __future__ import annotations

from hypothesis import strategies as st

from kvplan.traces.request import Request


@st.composite
def workloads(draw: st.DrawFn) -> list[Request]:
    shared = draw(st.integers(0, 40))
    return [
        Request(
            f"r{number}", number * draw(st.sampled_from((0.0, 0.01))),
            (((0, shared),) if shared else ()) + ((1000 * (number + 1), own),), shared + own,
            ((10**6 + 1000 * number, output),), output,
        )
        for number in range(draw(st.integers(1, 8)))
        for own, output in [(draw(st.integers(1, 60)), draw(st.integers(1, 40)))]
    ]  # fmt: skip
