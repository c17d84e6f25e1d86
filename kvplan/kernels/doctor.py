"""What this machine can run, and why not. Imports torch and triton only to ask them, and survives their
absence."""

from __future__ import annotations

import platform
import sys
from importlib import import_module
from typing import Any

from kvplan import __version__
from kvplan.errors import EnvironmentLacks
from kvplan.kernels import support
from kvplan.kernels.formats import KVFormat, all_formats

SCHEMA = "kvplan.doctor/1"
INSTALL = "pip install 'kvplan[gpu]'"


def examine() -> dict[str, Any]:
    """The findings, as a ``kvplan.doctor/1`` object.

    ``backends`` are ``reference`` (torch on any device) and ``triton`` (CUDA); each says whether it runs here
    and, if not, why. ``formats`` says the same for every format on each GPU present, and its storage cost at
    8 KV heads of 128 (MLA: its own shape).
    """
    torch, torch_problem = _module("torch")
    triton, triton_problem = _module("triton")
    gpus = _gpus(torch)
    capability = min((gpu["capability"] for gpu in gpus), default=None)
    problem = torch_problem or triton_problem
    if problem is None and not gpus:
        problem = "no CUDA device is visible to torch"
    if problem is None and capability is not None and capability < support.OLDEST:
        problem = f"the GPU has compute capability {capability / 10:.1f}; 8.0 or newer is needed"
    return {
        "schema": SCHEMA,
        "kvplan": __version__,
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "torch": _version(torch, torch_problem),
        "triton": _version(triton, triton_problem),
        "gpus": gpus,
        "backends": [
            {"name": "planning", "runs": True, "why_not": None},
            {"name": "reference", "runs": torch is not None, "why_not": torch_problem},
            {"name": "triton", "runs": problem is None, "why_not": problem},
        ],
        "formats": [_format(fmt, capability, torch_problem, problem) for fmt in all_formats()],
    }


def require(findings: dict[str, Any], wanted: str) -> None:
    """Raise when something asked for is missing.

    Args:
        wanted: ``torch``, ``triton``, ``gpu``, or the name of a format that must run on the GPU.

    Raises:
        EnvironmentLacks: it is missing; says how to get it.
        UnknownName: no such thing.
    """
    from kvplan.errors import UnknownName

    if wanted in ("torch", "triton"):
        if not findings[wanted]["version"]:
            raise EnvironmentLacks(f"{wanted} is missing: {findings[wanted]['problem']}", hint=INSTALL)
        return
    triton = next(b for b in findings["backends"] if b["name"] == "triton")
    formats = {f["name"]: f for f in findings["formats"]}
    if wanted != "gpu" and wanted not in formats:
        raise UnknownName("requirement", wanted, ["torch", "triton", "gpu", *formats])
    reason = triton["why_not"] if wanted == "gpu" else formats[wanted]["why_not"]
    if reason:
        hint = None if findings["torch"]["version"] and findings["triton"]["version"] else INSTALL
        raise EnvironmentLacks(f"{wanted} cannot run here: {reason}", hint=hint)


def _module(name: str) -> tuple[Any, str | None]:
    try:
        return import_module(name), None
    except ImportError as exc:
        return None, f"{name} cannot be imported ({exc})"
    except Exception as exc:  # a broken install must be reported, whatever it raises
        return None, f"{name} fails to import ({type(exc).__name__}: {exc})"


def _version(module: Any, problem: str | None) -> dict[str, Any]:
    return {"version": getattr(module, "__version__", None), "problem": problem}


def _gpus(torch: Any) -> list[dict[str, Any]]:
    if torch is None or not torch.cuda.is_available():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(index)
        found.append(
            {
                "index": index,
                "name": p.name,
                "capability": p.major * 10 + p.minor,
                "multiprocessors": p.multi_processor_count,
                "memory_bytes": p.total_memory,
                "compiled_in_tests": p.major * 10 + p.minor in support.TESTED,
            }
        )
    return found


def _format(
    fmt: KVFormat, capability: int | None, no_torch: str | None, no_triton: str | None
) -> dict[str, Any]:
    reason = no_triton or support.why_not(capability)
    return {
        "name": fmt.name,
        "summary": fmt.summary,
        "bytes_per_token_layer": fmt.bytes_per_token(8, 128),
        "reference": no_torch is None,
        "triton": reason is None,
        "why_not": reason,
    }
