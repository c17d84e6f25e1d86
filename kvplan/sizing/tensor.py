"""One weight tensor on one rank: its shape, and which part of the model it belongs to."""

from __future__ import annotations

from dataclasses import dataclass

from kvplan.specs.schema import Component


@dataclass(frozen=True, slots=True)
class Tensor:
    """``stack`` matrices of ``outputs`` x ``inputs`` in one allocation; vectors have ``inputs`` 1.

    ``quantizable``: a weight format applies to it (matrices); vectors stay in the model's dtype.
    """

    name: str
    component: Component
    outputs: int
    inputs: int
    stack: int = 1
    quantizable: bool = True

    @property
    def parameters(self) -> int:
        """Elements, scales and zero points not counted."""
        return self.outputs * self.inputs * self.stack


def matrix(name: str, component: Component, outputs: int, inputs: int, *, stack: int = 1) -> Tensor:
    """A weight matrix."""
    return Tensor(name, component, outputs, inputs, stack)


def vector(name: str, component: Component, size: int) -> Tensor:
    """A bias, norm or other one-dimensional weight: never quantized."""
    return Tensor(name, component, size, 1, quantizable=False)


def share(total: int, ranks: int) -> int:
    """What one rank holds of ``total`` heads or channels: at least one, so few are replicated."""
    return max(1, -(-total // ranks))
