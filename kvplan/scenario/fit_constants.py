"""What a fit to a serving run may move: constants of clock and client, and what is usual of each."""

from __future__ import annotations

from dataclasses import dataclass

from kvplan.latency import client
from kvplan.latency.engine_overhead import REQUEST_S, STEP_S
from kvplan.latency.graphs import EAGER_OP_S
from kvplan.latency.profile import COMPUTE, MEMORY


@dataclass(frozen=True, slots=True)
class Constant:
    """One unknown of the search, positive.

    ``width``: e-folds around the start that are tried first. ``spread``: standard deviation of its logarithm
    before anything was measured. Of what a run cannot tell apart, that moves which may: kernels hardly reach
    less than half of a GPU elsewhere, but the code around them may take several times as long.
    """

    name: str
    start: float
    low: float
    high: float
    width: float
    spread: float


CLIENT = Constant(client.KEY, 15e-3, 1e-4, 1.0, 0.7, 0.8)
"""Every request's, in the median."""
TOKEN = Constant(client.TOKEN, 2e-6, 1e-8, 1e-4, 0.7, 1.0)
"""Linear in the prompt like computing it: what tells them apart are prompts that were cached, and those that
hold up others. Never quite nothing: tokenizers take 0.5 to 8 us a token."""
SERVER = Constant(client.SERVER, 1.5e-3, 1e-5, 0.1, 0.7, 1.0)
"""What tells it from the client's overhead are requests that are sent together. Never quite nothing."""
SPREAD = Constant(client.SPREAD, 0.4, 0.02, 0.7, 0.5, 0.6)
"""Fitted only to closed loops: requests that are answered in one step would be sent together for ever there,
and in an open loop percentiles tell it better (``kvplan.scenario.fit_client``)."""
CHUNK = Constant(client.CHUNK, 8e-5, 1e-6, 5e-3, 0.7, 1.0)
"""Fitted only where runs show it (``kvplan.scenario.fit_streams``): nothing otherwise."""
LAUNCH = Constant("launch_s", EAGER_OP_S, 1e-6, 1e-3, 0.5, 0.5)
"""Fitted only where no graph is replayed: elsewhere launches are hidden behind the GPU's work."""
CONSTANTS: dict[str, tuple[Constant, ...]] = {
    "roofline": (
        Constant("compute_efficiency", 0.8, 0.05, 1.0, 0.3, 0.35),
        Constant("memory_efficiency", 0.8, 0.1, 1.0, 0.2, 0.2),
        Constant("step_s", STEP_S, 1e-5, 0.1, 0.7, 1.0),
        Constant("request_s", REQUEST_S, 1e-7, 2e-3, 1.2, 1.5),
        CLIENT,
        SERVER,
        TOKEN,
    ),
    "profile": (
        Constant(COMPUTE, 1.0, 0.4, 5.0, 0.3, 0.35),
        Constant(MEMORY, 1.0, 0.4, 5.0, 0.2, 0.2),
        Constant("step_s", STEP_S, 1e-5, 0.1, 0.7, 1.0),
        Constant("request_s", REQUEST_S, 1e-7, 2e-3, 1.2, 1.5),
        CLIENT,
        SERVER,
        TOKEN,
    ),
}
OUTSIDE = (CLIENT.name, SERVER.name, TOKEN.name, SPREAD.name, CHUNK.name)
"""Of them, the client's: the engine's clock knows nothing of these."""
_TENSOR_CORES = "prompts of {prompt:,.0f} tokens (median) hardly load the tensor cores"
_READING = "reading weights and cache cannot be told from the rest of a step"
WHY = {
    "compute_efficiency": _TENSOR_CORES,
    COMPUTE: _TENSOR_CORES,
    MEMORY: _READING,
    "memory_efficiency": _READING,
    "step_s": "it cannot be told from the rest of a step",
    "request_s": "what it adds to a step looks like the other constants",
    LAUNCH.name: "the GPU was the slower of the two, so launching was not seen",
    CLIENT.name: "it is small beside the rest of TTFT",
    SERVER.name: "it looks like the rest of TTFT",
    TOKEN.name: "prompts are too short or too much alike",
    CHUNK.name: "tokens hardly wait for one another at the front end",
    SPREAD.name: "how far requests of the loop are apart hardly depends on it",
}
"""Why a run may not tell a constant."""
