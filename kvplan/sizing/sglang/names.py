"""What SGLang decides by a model's class, which a spec does not say: told by its name or its family.

Names are compared without signs: ``gemma-4-31b`` and the family ``gemma4_text`` both begin with ``gemma4``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from kvplan.specs.schema import ModelSpec

Version = tuple[int, int, int]


def named_since(model: ModelSpec, since: Mapping[str, Version], version: Version) -> bool:
    """Whether the model's name or family begins with one of ``since``, from the version given there on."""
    return named(model, *(start for start, first in since.items() if version >= first))


def named(model: ModelSpec, *starts: str) -> bool:
    """Whether the model's name or family begins with one of these."""
    return any(_plain(name).startswith(starts) for name in (model.name, model.family))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())
