"""The clock, and how sure one may be of it."""

from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from kvplan.scenario.schema.part import Part, number


class LatencyPart(Part):
    """Which clock; the other keys are the model's own parameters."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    model: str = "roofline"

    @model_validator(mode="before")
    @classmethod
    def _numbers_with_an_exponent(cls, data: Any) -> Any:
        """The parameters are not typed here, so it is here that 2e-05 becomes a number again."""
        if not isinstance(data, dict):
            return data
        found = {name: number(value) for name, value in data.items()}
        return {name: value if found[name] is None else found[name] for name, value in data.items()}

    def parameters(self) -> dict[str, Any]:
        """Everything but ``model``."""
        return dict(self.model_extra or {})


class AccuracyPart(Part):
    """How the intervals around predicted times are made.

    ``ensemble``: simulations with a perturbed clock; 0 is none, and unset is 8 for workloads that take
    seconds to simulate again.
    """

    ensemble: Annotated[int, Field(strict=True, ge=0, le=64)] | None = None

    @model_validator(mode="after")
    def _no_ensemble_of_one(self) -> Self:
        if self.ensemble == 1:
            raise ValueError("one member says nothing about a spread: ensemble is 0, or 2 to 64")
        return self
