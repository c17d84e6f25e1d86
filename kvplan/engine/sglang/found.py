"""What a look into a radix cache has found that keeps more of a prefix than its tokens."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from kvplan.engine.sglang.prefix_radix import RadixNode

NodeT = TypeVar("NodeT", bound=RadixNode, covariant=True)


class Found(NamedTuple, Generic[NodeT]):
    """A prefix, and how much of it can be used.

    Attributes:
        hit: leading tokens on the device that can be used.
        node: the node they end with; the root, if there are none.
        passed: leading tokens that agree, whether they can be used or not.
        last: where that ends which can be used once everything is on the device; ``node``, unless below it.
        below: tokens between the two that count as found below the device.
        windows: tokens of windows that only the memory below has, of those ``last`` needs.
    """

    hit: int
    node: NodeT
    passed: int
    last: NodeT
    below: int = 0
    windows: int = 0
