"""The books of an engine with pins and units after every step: conservation, references, no gaps."""

from __future__ import annotations

import dataclasses

from audited import Audited
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from workloads import cases

from kvplan.engine.config import EngineConfig
from kvplan.engine.live import LiveRequest
from kvplan.engine.prefix_node import Node
from kvplan.engine.recorder import Recorder
from kvplan.engine.reuse.pins import PinRule
from kvplan.engine.reuse.replica import ReuseReplica
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request


class AuditedReuse(Audited, ReuseReplica):
    """Pins hold blocks as requests do; everything in the tree is whole units."""

    def audit(self) -> None:
        super().audit()
        pins = self.scheduler.pins
        assert pins.blocks <= pins.budget
        assert pins.blocks == self._blocks_of_pins()

    def _blocks_of_pins(self) -> int:
        """The same as the book says, from the tree: every segment that a pin holds, once."""
        held = {}
        for pin in self.scheduler.pins.pins.values():
            for segment, first in pin.holder.held:
                piece = segment
                while piece is not None:
                    held[id(piece)] = self._length(piece.node)
                    if piece.node.start <= first:
                        break
                    piece = piece.above
        return sum(held.values())

    def _holders(self) -> list[LiveRequest]:
        return [*super()._holders(), *(pin.holder for pin in self.scheduler.pins.pins.values())]

    def _end(self, node: Node) -> int:
        end = super()._end(node)
        assert node.start % self.unit == 0
        return end - end % self.unit

    def _in_tree(self, request: LiveRequest) -> int:
        blocks = super()._in_tree(request)
        return blocks - blocks % self.unit


@examples(100)
@given(
    cases(),
    st.sampled_from([1, 2, 3, 5]),
    st.lists(
        st.builds(PinRule, st.integers(1, 24), st.sampled_from([0.004, 0.03, 0.2, 5.0]), st.integers(1, 3)),
        max_size=3,
    ),
    st.integers(1, 40),
)
def test_books_are_kept(
    case: tuple[EngineConfig, list[Request]], unit: int, rules: list[PinRule], budget: int
) -> None:
    config = dataclasses.replace(case[0], enable_prefix_caching=True)
    recorder = Recorder(on_decision=lambda line: None)
    engine = AuditedReuse(
        config, LinearLatency(5e-3, 2e-5, 1e-8), recorder, unit=unit, rules=tuple(rules), budget=budget
    )
    engine.run(case[1])
    engine.audit()
