"""Every number explains itself: its name, the formula with its values, and where the formula is from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Term:
    """One line of a bill: ``formula`` is readable arithmetic with the values in; ``value`` is exact."""

    name: str
    formula: str
    value: int | float
    unit: str = "B"
    source: str = "kvplan"

    def to_dict(self) -> dict[str, str | int | float]:
        """The entry of ``terms`` in JSON documents."""
        return {
            "name": self.name,
            "formula": self.formula,
            "value": self.value,
            "unit": self.unit,
            "source": self.source,
        }
