"""Which models read images below SGLang where nobody says whether they should."""

from __future__ import annotations

from kvplan.sizing.sglang.names import Version, named, named_since
from kvplan.specs.schema import ModelSpec

TEXT_UNLESS_ASKED = {
    "gemma3": (0, 5, 1), "llama4": (0, 5, 1), "step3vl": (0, 5, 1), "inkling": (0, 5, 16),
}  # fmt: skip
"""Those that read text alone without ``--enable-multimodal`` (``mm_disabled_models`` of ``ModelConfig``)."""


def reads_images(model: ModelSpec, version: Version) -> bool:
    """Whether images are read; what is held back for them, and prefill graphs, depend on it."""
    text_alone = named_since(model, TEXT_UNLESS_ASKED, version) and not named(model, "gemma3n")
    return model.vision is not None and not text_alone
