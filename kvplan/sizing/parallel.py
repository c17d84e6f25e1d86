"""How a model is spread over GPUs: the degrees, and what follows from them alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Parallel:
    """Degrees of parallelism; one replica uses tp x pp x cp GPUs, dp replicas share the sequences."""

    tp: int = 1
    pp: int = 1
    cp: int = 1
    dp: int = 1
    dp_attention: bool = False

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return self.tp * self.pp * self.cp * self.dp

    @property
    def attention_tp(self) -> int:
        """Ranks that share one sequence's heads."""
        return 1 if self.dp_attention else self.tp

    @property
    def sequence_shards(self) -> int:
        """Groups that sequences are dealt to."""
        return self.dp * (self.tp if self.dp_attention else 1)

    def to_dict(self) -> dict[str, int | bool]:
        """For JSON documents."""
        return {"tp": self.tp, "pp": self.pp, "cp": self.cp, "dp": self.dp, "dp_attention": self.dp_attention}
