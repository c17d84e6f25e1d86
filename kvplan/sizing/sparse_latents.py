"""The number format vLLM keeps latents in that an indexer chooses from (DeepSeek-V3.2, GLM-5).

The kernel that reads them decides, and with it version and GPU: whether fp8 is packed (656 bytes: fp8
codes, their scales, the rotary part in bf16) or stays rows of codes, and on some GPUs fp8 is taken unasked.
Checked by running vLLM's own start-up functions.
"""

from __future__ import annotations

from kvplan.sizing.serving import BLACKWELL, Serving
from kvplan.specs.schema import LatentAttention, ModelSpec

PACKS_UNASKED = (0, 11, 0)
"""The one version that keeps fp8 unless bf16 is asked for."""
PLAIN_ROWS = (0, 19, 0)
"""Data-center Blackwell reads plain fp8 rows from here on."""
CONSUMER_BLACKWELL = (0, 24, 0)
"""Blackwell of compute capability 12 has a kernel, for packed entries only."""
GLM_IN_FP8 = (0, 32, 0)
"""GLM's latents are in fp8 on data-center Blackwell, unasked."""


def is_sparse(model: ModelSpec) -> bool:
    """Whether an indexer chooses which latents are read."""
    return any(
        isinstance(group.block.attention, LatentAttention) and group.block.attention.indexer is not None
        for group in model.groups()
    )


def unasked_format(model: ModelSpec, serving: Serving) -> str | None:
    """What vLLM takes if it is told nothing; ``None`` where the checkpoint or the model's dtype decides."""
    if not is_sparse(model):
        return None
    version, blackwell = serving.version, serving.capability == BLACKWELL
    glm = model.family.startswith("glm") and version >= GLM_IN_FP8 and blackwell
    consumer = serving.capability == 12 and version >= CONSUMER_BLACKWELL
    return "fp8_e4m3" if glm or consumer or version == PACKS_UNASKED else None


def keeps_rows(serving: Serving) -> bool:
    """Whether latents in fp8 stay rows of codes instead of packed entries."""
    return serving.capability == BLACKWELL and serving.version >= PLAIN_ROWS
