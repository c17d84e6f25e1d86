"""How requests hold memory: blocks, slots or contiguous regions."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from kvplan.errors import KvplanError
from kvplan.scenario.schema.part import Bytes, Part, Positive, Tokens

_BELONGS = {
    "paged": ("report",),
    "slots": ("reserve", "fit"),
    "contiguous": ("fit", "growth", "chunk", "when_full", "copy_bytes_per_s", "bytes_per_token"),
}


class AllocationPart(Part):
    """How memory is given to requests; a text is the kind alone.

    ``paged``: blocks anywhere; ``report: fragmentation`` watches what they waste. ``slots``: a contiguous
    region for the longest a request may become, reserved when it is admitted. ``contiguous``: a region that
    grows with the tokens, doubling or by ``chunk`` tokens; when it cannot grow in place it is copied
    elsewhere (``when_full: move``) or room is made by preemption.
    """

    kind: Literal["paged", "slots", "contiguous"] = "paged"
    report: Literal["none", "fragmentation"] = "none"
    reserve: Literal["max", "pow2", "oracle"] = "max"
    fit: Literal["first", "best", "buddy"] = "first"
    growth: Literal["double", "chunk"] = "double"
    chunk: Tokens | None = None
    when_full: Literal["move", "preempt"] = "move"
    copy_bytes_per_s: Annotated[Bytes, Field(gt=0)] | None = None
    bytes_per_token: Positive | None = None

    @model_validator(mode="before")
    @classmethod
    def _kind_alone(cls, data: Any) -> Any:
        return {"kind": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _belongs(self) -> Self:
        defaults = type(self).model_fields
        for name in defaults:
            if name == "kind" or name in _BELONGS[self.kind]:
                continue
            if getattr(self, name) != defaults[name].default:
                owners = " and ".join(kind for kind, names in _BELONGS.items() if name in names)
                raise ValueError(f"allocation {self.kind} has no {name!r}: that belongs to {owners}")
        if self.kind == "contiguous":
            if (self.growth == "chunk") != (self.chunk is not None):
                raise ValueError("growth: chunk needs 'chunk' in tokens, and growth: double has none")
            if self.when_full == "preempt" and (self.copy_bytes_per_s or self.bytes_per_token):
                raise ValueError("when_full: preempt copies nothing: leave copy speed and bytes out")
        return self


def check_retention(text: str) -> str:
    """A spelling that sizing knows, or ``engine`` or ``kivi``; it comes back as sizing spells it.

    Raises:
        ValueError: no such retention.
    """
    folded = text.strip().casefold()
    if folded in ("engine", "kivi"):
        return folded
    from kvplan.sizing.retention import ENGINES, parse_retention

    try:
        found = parse_retention(text)
    except KvplanError as exc:
        raise ValueError(exc.message) from exc
    if found.name in ENGINES:
        raise ValueError(
            f"{found.name} is whose layouts sizing bills; a simulation keeps what its engine keeps: use "
            "engine, streaming:S+W, h2o:R, snapkv:R or kivi"
        )
    return found.name
