"""How a model is spread over GPUs: the degrees, and what follows from them alone."""

from __future__ import annotations

from dataclasses import dataclass

from kvplan.errors import UsageError
from kvplan.units import MAX_GPUS, check_count


@dataclass(frozen=True, slots=True)
class Parallel:
    """Degrees of parallelism; one replica uses tp x pp x cp GPUs, dp replicas share the sequences.

    ``attention_ranks``: groups of its ``tp`` GPUs that have sequences of their own (data-parallel attention),
    each of ``tp / attention_ranks`` GPUs; 1: all GPUs have the same sequences.
    """

    tp: int = 1
    pp: int = 1
    cp: int = 1
    dp: int = 1
    attention_ranks: int = 1

    @property
    def dp_attention(self) -> bool:
        """Whether attention is data-parallel."""
        return self.attention_ranks > 1

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return self.tp * self.pp * self.cp * self.dp

    @property
    def attention_tp(self) -> int:
        """Ranks that share one sequence's heads."""
        return self.tp // self.attention_ranks

    @property
    def sequence_shards(self) -> int:
        """Groups that sequences are dealt to."""
        return self.dp * self.attention_ranks

    def to_dict(self) -> dict[str, int | bool]:
        """For JSON documents."""
        return {
            "tp": self.tp, "pp": self.pp, "cp": self.cp, "dp": self.dp, "dp_attention": self.dp_attention,
            "attention_ranks": self.attention_ranks,
        }  # fmt: skip


def attention_ranks(tp: int, *, dp_attention: bool, given: int | None) -> int:
    """Ranks of data-parallel attention among ``tp`` GPUs: as many as ``given``, else each of them or one.

    Raises:
        UsageError: sequences are to be dealt to ranks, of which one is given.
    """
    if dp_attention and given == 1:
        raise UsageError(
            "data-parallel attention deals sequences to ranks, and attention_ranks 1 keeps them together",
            hint="leave one of the two out, or say how many ranks",
        )
    return given or (tp if dp_attention else 1)


def check_degrees(parallel: Parallel) -> None:
    """Refuse numbers of GPUs that no model could be spread over.

    Raises:
        UsageError: naming the degree, and what would work.
    """
    for name in ("tp", "pp", "cp", "dp", "attention_ranks"):
        check_count(name, getattr(parallel, name), MAX_GPUS)
    if parallel.tp % parallel.attention_ranks:
        raise UsageError(
            f"tp {parallel.tp} is no multiple of {parallel.attention_ranks} attention ranks",
            hint=f"use one of {', '.join(str(n) for n in range(1, parallel.tp + 1) if parallel.tp % n == 0)}",
        )
