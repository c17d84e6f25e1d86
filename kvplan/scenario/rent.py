"""What the GPUs of a scenario cost: an hour of them, a run, a million tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kvplan.engine.recorder import Totals
from kvplan.errors import UnknownName, UsageError
from kvplan.scenario.schema.price import PricePart

SECONDS_PER_HOUR = 3600.0
MILLION = 1e6


@dataclass(frozen=True, slots=True)
class Rent:
    """GPUs, and what an hour of all of them costs in ``currency``; None where no price was given."""

    gpus: int
    per_hour: float | None
    currency: str

    def to_dict(self, totals: Totals) -> dict[str, Any] | None:
        """The ``cost`` object of a result; None without a price.

        The GPUs are rented for the makespan, idle or not. Tokens are those of requests that finished, and
        a million of none has no cost.
        """
        if self.per_hour is None:
            return None
        total = self.per_hour * totals.makespan_s / SECONDS_PER_HOUR
        answered, whole = totals.output_tokens, totals.prompt_tokens + totals.output_tokens
        return {
            "currency": self.currency,
            "gpus": self.gpus,
            "per_hour": self.per_hour,
            "total": total,
            "per_million_output_tokens": total / answered * MILLION if answered else None,
            "per_million_tokens": total / whole * MILLION if whole else None,
        }


def rent_of(price: PricePart, gpus: Mapping[str, int]) -> Rent:
    """The rent of so many GPUs, by name.

    Raises:
        UnknownName: a price of a GPU that nobody knows.
        UsageError: a GPU has no price, though others have.
    """
    count, hourly = sum(gpus.values()), price.gpu_hour
    if hourly is None:
        return Rent(count, None, price.currency)
    if not isinstance(hourly, dict):
        return Rent(count, hourly * count, price.currency)
    known = _by_name(hourly)
    for name in gpus:
        if name not in known:
            raise UsageError(
                f"no price of {name or 'a GPU without a name'}; there are those of {', '.join(known)}",
                where="price.gpu_hour",
                hint=f"add {name}=PRICE, of an hour of one GPU" if name else "give one price for all GPUs",
            )
    return Rent(count, sum(known[name] * number for name, number in gpus.items()), price.currency)


def _by_name(hourly: Mapping[str, float]) -> dict[str, float]:
    """Prices by the GPUs' own names, which users also call by others."""
    from kvplan.specs.catalog import load_gpu

    found: dict[str, float] = {}
    names: dict[str, str] = {}
    for called, price in hourly.items():
        try:
            name = load_gpu(called).name
        except UnknownName as exc:
            exc.where = "price.gpu_hour"
            raise
        if name in found:
            raise UsageError(
                f"{called} is the same GPU as {names[name]}, which has a price already",
                where="price.gpu_hour",
            )
        found[name], names[name] = price, called
    return found
