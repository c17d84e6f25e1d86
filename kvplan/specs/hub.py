"""Fetching one config.json from the Hugging Face hub: the only network access here, and only on request."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from kvplan.errors import DataError, EnvironmentLacks, UsageError

HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


def fetch_config(repo: str, revision: str | None = None) -> tuple[Path, str]:
    """``(path of config.json in the local cache, commit)`` of a hub repository.

    Downloads that one file, and ``hf_quant_config.json`` beside it; nothing that could be run.

    Raises:
        UsageError: not a hub id; EnvironmentLacks: the ``hf`` extra is missing; DataError: the hub refused.
    """
    if HUB_ID.match(repo) is None:
        raise UsageError(f"{repo!r} is not a Hugging Face id", hint="write it like meta-llama/Llama-3.1-8B")
    try:
        from huggingface_hub import hf_hub_download  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise EnvironmentLacks(
            "importing from the Hugging Face hub needs the hf extra",
            hint="pip install 'kvplan[hf]', or download config.json yourself and import the file",
        ) from None
    try:
        path = Path(hf_hub_download(repo, "config.json", revision=revision))
    except Exception as exc:  # the hub library raises errors of many other libraries
        reason = str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
        raise DataError(
            f"the hub did not give config.json: {reason}",
            where=f"hf:{repo}",
            hint="check the name, the revision and, for gated models, your login (hf auth login)",
        ) from exc
    with contextlib.suppress(Exception):  # beside it where weights are quantized with modelopt, else absent
        hf_hub_download(repo, "hf_quant_config.json", revision=revision)
    return path, path.parent.name
