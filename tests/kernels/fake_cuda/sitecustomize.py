"""A CUDA device made of the CPU and Triton's interpreter, for every Python process started with this folder first
on ``PYTHONPATH``: the GPU script's own control flow (watching, the crew, graph capture, events) runs without a GPU.

Tensors asked for on ``cuda`` lie on the CPU. A captured graph is the list of kernels that were launched; replaying
launches them again. What a stream that is being captured forbids raises, as it would there. Sizes that only a GPU
can afford are cut down. ``FAKE_CUDA_STORY`` says what goes wrong: ``wrong`` adds a check that fails, the rest is in
``_story``.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch.overrides import TorchFunctionMode
from triton.runtime.interpreter import GridExecutor

STORY = os.environ.get("FAKE_CUDA_STORY", "").split(",")
WAITS = (
    "item",
    "tolist",
    "cpu",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "nonzero",
    "numpy",
    "pin_memory",
)
"""Methods that wait for the device, or that no capture allows."""
REPLAYS = 2
"""Replays of a graph that launch; the interpreter takes too long for more, which only repeat them."""


class Graph:
    """Kernels in the order they were launched."""

    capturing: Graph | None = None

    def __init__(self) -> None:
        self.launches: list = []
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        for launch in self.launches if self.replays <= REPLAYS else ():
            launch()

    def reset(self) -> None:
        self.launches.clear()


@contextmanager
def capture(graph):
    assert Graph.capturing is None
    Graph.capturing = graph
    try:
        yield
    finally:
        Graph.capturing = None


class Event:
    """A wall-clock time."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        forbid("an event of the default stream")
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        forbid("waiting for an event")

    def elapsed_time(self, later: Event) -> float:
        return max((later.at - self.at) * 1e3, 1e-4)


class Stream:
    """Order is that of the program."""

    def wait_stream(self, other: Stream) -> None:
        forbid("waiting for a stream")


class OnTheCPU(TorchFunctionMode):
    """Every ``cuda`` becomes ``cpu``."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        moved = [there(x) for x in args]
        return func(*moved, **{k: there(v) for k, v in (kwargs or {}).items()})


def there(x):
    named = isinstance(x, torch.device) and x.type == "cuda"
    return "cpu" if named or (isinstance(x, str) and x.startswith("cuda")) else x


def forbid(what: str) -> None:
    if Graph.capturing is not None:
        raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({what})")


def refusing(name: str):
    """A method of tensors that is refused during a capture."""
    method = getattr(torch.Tensor, name)

    def called(self, *args, **kwargs):
        forbid(f"Tensor.{name}")
        return self if name == "pin_memory" else method(self, *args, **kwargs)

    return called


_launch = GridExecutor.__call__


def launch(self, *args, **kwargs):
    """Run a kernel, or hold it for a graph; let the story happen."""
    _story(self.fn.__name__)
    if Graph.capturing is None:
        return _launch(self, *args, **kwargs)
    # A graph holds the addresses of its tensors, and its memory pool keeps them.
    return Graph.capturing.launches.append(lambda: _launch(self, *args, **kwargs))


LOST = {"device": False}


def synchronize(*_: object) -> None:
    forbid("waiting for the device")
    if LOST["device"]:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def _story(kernel: str) -> None:
    """``crash``, ``lose``: the process that times dies, or loses its device, when it writes a latent."""
    timing = multiprocessing.parent_process() is None
    if kernel != "write_mla" or not timing or not {"crash", "lose"} & set(STORY):
        return
    if "crash" in STORY:
        os.kill(os.getpid(), signal.SIGSEGV)
    LOST["device"] = True
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def _install() -> None:
    from tests.kernels.interpreted import remember_builtins

    remember_builtins()
    GridExecutor.__call__ = launch
    c = torch.cuda
    c.is_available = lambda: True
    c.Event, c.Stream, c.CUDAGraph, c.graph = Event, Stream, Graph, capture
    c.current_stream = lambda *_: Stream()
    c.stream = lambda _: contextmanager(lambda: (yield))()
    c.synchronize = synchronize
    c.empty_cache = lambda: forbid("freeing memory")
    c.memory_reserved = lambda *_: 0
    c.memory_allocated = lambda *_: 0
    c.get_device_properties = lambda *_: SimpleNamespace(
        name="NVIDIA H100 80GB HBM3", major=9, minor=0, multi_processor_count=132, total_memory=85_520_809_984,
        L2_cache_size=1 << 10,
    )  # fmt: skip
    c.get_device_capability = lambda *_: (9, 0)
    for name in WAITS:
        setattr(torch.Tensor, name, refusing(name))
    OnTheCPU().__enter__()


def _shrink() -> None:
    """Points, checks and ceilings that the interpreter can afford."""
    from dataclasses import replace

    from kvplan.kernels import ops
    from kvplan.kernels.bench import ceilings, correctness, peers, points, run, timer

    ops.uses_triton = lambda backend, device: backend != "reference"
    tiny = points.tiny()
    points.grid = lambda: iter(tiny[:1])
    points.holdout = lambda: [replace(tiny[1])]
    points.side = lambda: iter(tiny[2:])
    points.drift = lambda repeat: iter([replace(tiny[0], stage="drift", repeat=repeat)])
    points.headline = lambda p: False
    every = correctness.jobs

    def jobs(small, left):
        checks = [job for job in every(True, left) if job[0] != "warm"]
        wrong = [("write", "no-such-format")] if "wrong" in STORY else []
        # One in four, as each is of a kernel that other tests have checked.
        return (
            checks + wrong + [("graph", "bf16")] + [("warm", p) for p in correctness.variants_of(left)[::4]]
        )

    correctness.jobs = jobs
    correctness.os = SimpleNamespace(cpu_count=lambda: 3)
    ceilings.MATMUL_TOKENS, ceilings.MATMUL_SHAPES, ceilings.LM_HEAD = (1, 16), ((64, 64),), (64, 128)
    ceilings.LM_HEAD_TOKENS = (1,)
    for name in ("_copy", "_read", "_host_copy"):
        real = getattr(ceilings, name)
        setattr(ceilings, name, lambda size, *rest, real=real: real(min(size, 1 << 14), *rest))
    peers.POINTS, peers.PREFILL = peers.POINTS[:1] * 5, ()
    peers.flex = lambda p, device: 1 / 0
    peers._dense = lambda p, device: tuple(torch.randn(1, h, 8, 16) for h in (p.hq, p.hkv, p.hkv))
    run.wake.__defaults__ = (0.01, 16)
    timer.GraphTimer.__init__.__defaults__ = (1e-4, 1e-5)


if os.environ.get("FAKE_CUDA"):
    _install()
    _shrink()
