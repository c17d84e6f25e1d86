"""What a profile of kvplan's own kernels holds beside fitted kernels: machine ceilings, writers, environment.

Present in ``kvplan.profile/2`` alone. Rates are bytes/s or FLOP/s, times are seconds.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
Size = Annotated[int, Field(ge=1, le=1 << 50)]
Name = Annotated[str, Field(min_length=1, max_length=60)]

PageSize = Annotated[str, Field(pattern=r"^[0-9]{1,5}$")]
Tokens = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,3}$")]


class Part(BaseModel):
    """Frozen, closed, finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class HeldOut(Part):
    """Errors on shapes the kernel was not fitted on; absolute values of predicted / measured - 1.

    ``split``: ``designed`` (spread over the shapes), ``registered`` (drawn before measuring), or
    ``cross-validated`` (points left out in turn: refits, not the stored fit, were scored). ``coverage`` is
    None where the band was made from the same errors.
    """

    trained: int
    tested: int
    median: float
    p90: float
    coverage: float | None
    split: Literal["designed", "registered", "cross-validated"] = "designed"


class VerifyPart(Part):
    """Calls with several tokens of each sequence, as drafts are verified.

    ``factors``: time by tokens of a sequence, relative to the fitted kernel with as many more query heads.
    ``deviation``: standard deviation of the logarithm of single shapes about them.
    """

    factors: Annotated[dict[Tokens, Positive], Field(min_length=1, max_length=16)]
    deviation: Annotated[float, Field(ge=0)]


class KernelDetail(Part):
    """How one kernel came to be fitted.

    ``fitted``: parameters the points decided (all of them when empty). ``donor``: the format whose kernel
    gave the others. ``pages``: time by tokens of a page, relative to 64. ``ragged``: time of batches of
    log-normal lengths (sigma 0.6) relative to equal lengths with the same mean. ``verify``: None where no
    call with several tokens of a sequence was timed.
    """

    fitted: list[str] = []
    donor: str | None = None
    pages: Annotated[dict[PageSize, Positive], Field(max_length=16)] = {}
    ragged: Positive | None = None
    verify: VerifyPart | None = None


class HostCopy(Part):
    """Copies between host and device: ``latency_s + bytes / bytes_per_s``; ``points``: (bytes, seconds)."""

    direction: Literal["to_device", "to_host"]
    pinned: bool
    latency_s: Annotated[float, Field(ge=0)]
    bytes_per_s: Positive
    points: Annotated[list[tuple[Size, Positive]], Field(max_length=64)] = []


class Writer(Part):
    """Writing new tokens to a cache: ``launch_s + bytes / bytes_per_s``, 16-bit input and codes counted."""

    launch_s: Positive
    bytes_per_s: Positive
    points: int


class Ceilings(Part):
    """What the machine did without any attention kernel; None where it was not measured."""

    copy_bytes_per_s: Positive | None = None
    read_bytes_per_s: Positive | None = None
    matmul_flops: Annotated[dict[Name, Positive], Field(max_length=8)] = {}
    launch_s: Annotated[dict[Name, Positive], Field(max_length=8)] = {}
    host: Annotated[list[HostCopy], Field(max_length=16)] = []


class Measured(Part):
    """The second half of a profile of kvplan's own kernels.

    ``drift``: median of time at the end over time at the start of the run.
    """

    environment: Annotated[dict[Name, Annotated[str, Field(max_length=200)]], Field(max_length=80)]
    complete: bool
    held_out: HeldOut | None
    drift: Positive | None
    ceilings: Ceilings
    writers: Annotated[dict[Name, Writer], Field(max_length=60)]
