"""What GPUs cost to rent."""

from typing import Annotated

from pydantic import AfterValidator, Discriminator, Field, Tag

from kvplan.errors import UsageError
from kvplan.scenario.schema.part import Number, Part, by
from kvplan.units import currency_name

Hourly = Annotated[Number, Field(gt=0, le=1e9)]


def parse_prices(text: str) -> float | dict[str, str]:
    """``2.5``, or ``h100-sxm=2.5,a100-80g=1.2``.

    Raises:
        UsageError: neither; a GPU that is named twice.
    """
    if "=" not in text:
        from kvplan.traces.formats.table import parse_number

        try:
            return parse_number(text)
        except ValueError:
            raise UsageError(f"{text!r} is no price: write it like 2.5, or h100-sxm=2.5,l40s=1.1") from None
    found: dict[str, str] = {}
    for item in text.split(","):
        name, equals, price = (part.strip() for part in item.partition("="))
        if not equals or not name or not price:
            raise UsageError(f"{item!r} is no price of a GPU: write it like h100-sxm=2.5")
        if name in found:
            raise UsageError(f"{name!r} has two prices")
        found[name] = price
    return found


Prices = Annotated[dict[str, Hourly], Field(min_length=1, max_length=100)]


def _kind(value: object) -> str:
    return "prices" if isinstance(value, dict) else "price"


GpuHour = Annotated[
    Annotated[Hourly, Tag("price")] | Annotated[Prices, Tag("prices")], Discriminator(_kind), by(parse_prices)
]
"""One price for all GPUs, or prices by the names of GPUs."""


class PricePart(Part):
    """Rent of one GPU for an hour: one for all GPUs, or by their names."""

    gpu_hour: GpuHour | None = None
    currency: Annotated[str, AfterValidator(currency_name)] = "USD"
