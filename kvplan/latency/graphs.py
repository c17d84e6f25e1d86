"""How the host launches a step's kernels: one graph, graphs between attention layers, or one by one.

::

    body = max(seconds on the GPU, seconds of launching)
    launching = graph                                decode batches up to the largest full graph
              = pieces * graph + attention * op      other batches up to the largest captured size (vLLM)
              = kernels * op                         beyond it, and always where graphs are off

Launches run ahead of the GPU, so only the longer of the two is seen. A batch that replays a graph is padded
to the next captured size. ``op`` is the host's time for one kernel: less in compiled code than in eager code,
which passes through modules and the dispatcher.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kvplan.engine.protocols import StepBatch
from kvplan.errors import SpecError
from kvplan.latency.assumption import Assumption
from kvplan.latency.routing import HIGH_THROUGHPUT
from kvplan.sizing.overheads import captured_sizes

if TYPE_CHECKING:
    from kvplan.latency.work import StepWork
    from kvplan.sizing.serving import Serving

GRAPH_S = 1e-5
"""Replaying one CUDA graph (assumed: 5 to 20 us)."""
EAGER_OP_S = 2e-5
"""Launching one kernel from eager code (assumed: an 8B model of 32 layers takes about 8 ms a decode step on
an H100 without graphs, and other reports imply 10 to 40 us)."""
COMPILED_OP_S = 8e-6
"""Launching one kernel from compiled code that is not in a graph (assumed: 4 to 16 us)."""
UNCERTAINTY = 2.0
"""Factor within which launching takes as long as stated, nine times in ten."""
EAGER_WIDER = 1.5
"""How much wider bands are where no graph is replayed (assumed)."""

LAYER_KERNELS = 3
"""Of a layer beside matrices and attention: two norms and an activation."""
ATTENTION_KERNELS = 4
"""Rotary embedding, cache write, attention, merging of splits."""
STATE_KERNELS = 4
"""Convolution, scan, its state update, gated norm."""
EXPERT_KERNELS = 7
"""Router scores, top-k, sorting by expert, two grouped multiplications, activation, weighted sum."""
TAIL_KERNELS = 12
"""Embedding, last norm, head, sampling, and copies in and out."""
QUANTISING = ("fp8", "fp8_channel", "fp8_block128", "int8", "nvfp4", "mxfp8")
"""Weight formats whose activations a kernel of their own quantises first."""
KEY = "launch_s"


@dataclass(frozen=True, slots=True)
class Launching:
    """How the kernels of a step get to the GPU.

    Args:
        kernels: of a step.
        attention: of them, those that stay outside piecewise graphs.
        pieces: graphs a step is cut into at its attention layers.
        full: captured sizes of whole decode steps, rising; none where graphs are off.
        piecewise: captured sizes of the pieces between attention layers.
        op_s: seconds of host time for a kernel outside a graph.
        graph_s: seconds of host time for a graph.
        eager: graphs are off. compiled: what is launched outside of graphs is compiled code.
        given: ``op_s`` comes from the scenario.
        request_tokens: of a request in a decode step: one, and its drafts.
    """

    kernels: int = 0
    attention: int = 0
    pieces: int = 0
    full: tuple[int, ...] = ()
    piecewise: tuple[int, ...] = ()
    op_s: float = 0.0
    graph_s: float = 0.0
    eager: bool = False
    compiled: bool = False
    given: bool = False
    request_tokens: int = 1

    @property
    def full_limit(self) -> int:
        """Tokens of the largest decode batch that is one graph."""
        return self.full[-1] if self.full else 0

    @property
    def piecewise_limit(self) -> int:
        """Largest batch that replays pieces."""
        return self.piecewise[-1] if self.piecewise else 0

    @property
    def full_s(self) -> float:
        """Launching a decode step as one graph."""
        return self.graph_s

    @property
    def pieces_s(self) -> float:
        """Launching a step in pieces; never less than whole, never more than one by one."""
        return min(max(self.pieces * self.graph_s + self.attention * self.op_s, self.full_s), self.plain_s)

    @property
    def plain_s(self) -> float:
        """Launching every kernel by itself."""
        return max(self.kernels * self.op_s, self.full_s)

    def seconds(self, tokens: int, *, decode: bool) -> float:
        """Launching a step of ``tokens`` tokens, all of them of decode requests or not."""
        if decode and tokens <= self.full_limit:
            return self.full_s
        return self.pieces_s if tokens <= self.piecewise_limit else self.plain_s

    def replays(self, tokens: int, *, decode: bool) -> bool:
        """Whether such a step is a graph, or pieces between attention layers are."""
        return tokens <= self.piecewise_limit or (decode and tokens <= self.full_limit)

    def computed(self, tokens: int, *, decode: bool) -> int:
        """Tokens the step computes: those of the graph it replays, if there is one for it."""
        return self.padded(tokens) if self.replays(tokens, decode=decode) else tokens

    def padded(self, tokens: int) -> int:
        """Tokens of a batch that replays a graph: the next captured size, up to the largest."""
        sizes = self.piecewise or self.full
        place = bisect_left(sizes, tokens)
        return sizes[place] if tokens and place < len(sizes) else tokens

    def shared(self, batch: StepBatch, ranks: int) -> tuple[int, int, float]:
        """Of one of ``ranks`` in step: tokens it computes, tokens of all of them, and seconds of launching.

        Where all replay graphs, each computes as many tokens as the largest batch is padded to, whoever has
        none, too; beyond that all run their own tokens (vLLM's ``sync_cudagraph_and_dp_padding``, SGLang's
        ``prepare_mlp_sync_batch``). A batch that nobody told of other ranks has its like on all of them.
        """
        tokens, whole = batch.scheduled_tokens, batch.together
        if whole is None:
            largest, together, decodes = tokens, ranks * tokens, not batch.prefill_chunks
        else:
            largest, together, decodes = whole.largest, whole.tokens, whole.decodes
        launch = self.seconds(largest, decode=decodes)
        if self.replays(largest, decode=decodes):
            tokens = self.padded(largest)
            together = ranks * tokens
        return tokens, together, launch

    def padding(self) -> list[int]:
        """``padded`` of every number of tokens from 0 to the largest captured."""
        return [self.padded(tokens) for tokens in range(max(self.full_limit, self.piecewise_limit) + 1)]

    def scaled(self, factor: float) -> Launching:
        """The same on a host that takes ``factor`` times as long."""
        return replace(self, op_s=self.op_s * factor, graph_s=self.graph_s * factor)

    def with_op(self, op_s: float) -> Launching:
        """The same with another time for a kernel."""
        return replace(self, op_s=op_s, given=True)

    def assumptions(self) -> tuple[Assumption, ...]:
        """What is launched, how, and what a launch takes."""
        if not self.kernels:
            return ()
        code = "compiled code" if self.compiled else "eager code"
        code += ": graphs are off" if self.eager else " outside graphs"
        why = f"host time for one of {self.kernels:,} kernels a step, {code}"
        source = f"{why}; given in the scenario" if self.given else f"{why}; assumed within a factor of two"
        found = [Assumption(f"latency.{KEY}", self.op_s, source)]
        if self.full:
            where = "decode batches replay one graph" + (
                f", others up to {self.piecewise_limit} tokens {self.pieces} pieces" if self.piecewise else ""
            )
            text = f"up to {self.full_limit // self.request_tokens} requests"
            found.append(Assumption("latency.cuda_graphs", text, f"{where}, padded to captured sizes"))
        return tuple(found)


ALWAYS_GRAPHS = Launching()
"""Launching costs nothing: where nobody says how the engine was started."""


def launching(
    work: StepWork, serving: Serving | None, *, op_s: object = None, timed_op_s: float | None = None
) -> Launching:
    """How an engine started with ``serving`` launches ``work``.

    Args:
        op_s: seconds for a kernel as the scenario gives them.
        timed_op_s: a profile's timed launch of one kernel; eager code is never assumed to be faster.

    Raises:
        SpecError: ``op_s`` is no number of seconds from 0 to 0.01.
    """
    if op_s is not None and not (
        isinstance(op_s, (int, float)) and not isinstance(op_s, bool) and 0 <= op_s <= 0.01
    ):
        raise SpecError(
            f"{KEY} must be a number of seconds from 0 to 0.01, not {op_s!r}", where=f"latency.{KEY}",
            hint="host time for launching one kernel outside a CUDA graph, for example 2.0e-5",
        )  # fmt: skip
    if serving is None:
        return ALWAYS_GRAPHS
    # DeepEP's kernels for throughput cannot be captured.
    captured = work.expert_exchange != HIGH_THROUGHPUT
    piecewise, full = captured_sizes(serving) if captured else ((), ())
    # SGLang's prefill runs eager code; vLLM compiles what it does not capture.
    compiled = serving.cuda_graphs and serving.kind == "vllm"
    plain = COMPILED_OP_S if compiled else EAGER_OP_S
    plain = max(plain, timed_op_s or 0.0)
    layers = sum(item.layers for item in work.attentions)
    return Launching(
        kernels=kernels_of(work),
        attention=ATTENTION_KERNELS * layers,
        pieces=layers + 1,
        full=full,
        piecewise=piecewise,
        op_s=plain if op_s is None else float(op_s),
        graph_s=GRAPH_S,
        eager=not (serving.cuda_graphs and captured),
        compiled=compiled,
        given=op_s is not None,
        request_tokens=serving.decode_tokens,
    )


def kernels_of(work: StepWork) -> int:
    """Kernels of one step on one rank, all layers."""
    count = TAIL_KERNELS + LAYER_KERNELS * work.layers
    count += work.all_reduces + work.own_reduces + work.own_gathers + 2 * work.expert_layers
    count += sum(item.count * (2 if item.format.name in QUANTISING else 1) for item in work.linears)
    count += ATTENTION_KERNELS * sum(item.layers for item in work.attentions)
    count += STATE_KERNELS * work.state_layers + EXPERT_KERNELS * sum(item.layers for item in work.experts)
    if work.context_ranks > 1:
        count += sum(item.layers for item in work.attentions)
    return count + work.stage_hops
