"""How a model is spread over GPUs: the degrees, and what follows from them alone."""

from __future__ import annotations

from dataclasses import dataclass


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
