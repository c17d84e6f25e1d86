"""Which GPU the machines that clouds rent out have, by the family of the machine's name.

Sources: AWS "Amazon EC2 instance types, accelerated computing", Google Cloud "GPU machine types". Azure's
names say the GPU themselves.
"""

from __future__ import annotations

import re

_AWS = {
    "g4dn": "t4", "g5": "a10g", "g6": "l4", "gr6": "l4", "g6e": "l40s", "g7e": "rtx-pro-6000-server",
    "p3": "v100-16g", "p3dn": "v100-32g", "p4d": "a100-40g", "p4de": "a100-80g", "p5": "h100-sxm",
    "p5e": "h200-sxm", "p5en": "h200-sxm", "p6-b200": "b200", "p6-b300": "b300", "p6e-gb200": "gb200",
}  # fmt: skip
_GOOGLE = {
    "g2-standard": "l4", "g4-standard": "rtx-pro-6000-server", "a2-highgpu": "a100-40g",
    "a2-megagpu": "a100-40g", "a2-ultragpu": "a100-80g", "a3-edgegpu": "h100-sxm", "a3-highgpu": "h100-sxm",
    "a3-megagpu": "h100-sxm", "a3-ultragpu": "h200-sxm", "a4-highgpu": "b200", "a4x-highgpu": "gb200",
}  # fmt: skip
_NAME = re.compile(r"(?P<aws>[a-z0-9-]+)\.(?:\d*x?large|metal)(?:-\w+)?|(?P<google>[a-z0-9]+-[a-z]+)-\d+g?")


def gpu_of_instance(name: str) -> str | None:
    """The GPU of a machine called so (``p5.48xlarge``, ``a3-highgpu-8g``); ``None`` where none is known."""
    parts = _NAME.fullmatch(name.casefold())
    if parts is None:
        return None
    return _AWS.get(parts["aws"] or "") or _GOOGLE.get(parts["google"] or "")
