"""SGLang's pool for sliding windows: how many tokens it has, and how far it takes layers to look back.

Read from ``pool_configurator.py``, ``load_model_utils.py`` and the models of 0.5.23.
"""

from __future__ import annotations

from fractions import Fraction

from kvplan.sizing.sglang.names import named
from kvplan.specs.schema import ModelSpec

COUNT_THEMSELVES = ("gptoss", "gemma4", "mellum", "inkling", "museglimmer", "musespark")
"""Models whose configs count a token into its own window, which SGLang does not: it looks back one less.

Of others (MiMo-V2, Step 3.5, Laguna) the config's window is taken as it is, of Llama 4 the attention chunk.
"""


def look_back(model: ModelSpec, window: int) -> int:
    """Tokens before a token that layers with windows need (``sliding_window_size``).

    Args:
        window: tokens of the model's window or attention chunk.
    """
    return window - 1 if named(model, *COUNT_THEMSELVES) else window


def window_tokens(tokens: int, ratio: Fraction, page: int) -> int:
    """Tokens of the window pool beside a full pool of ``tokens``, whole pages."""
    share = int(tokens * ratio)
    return share - share % page
