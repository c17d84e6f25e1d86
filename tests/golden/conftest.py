"""Makes the helper modules of this directory, and those of the engine's tests, importable."""

import sys
from pathlib import Path

sys.path[:0] = [
    str(Path(__file__).parent),
    *(str(Path(__file__).parents[1] / name) for name in ("engine", "laws")),
]
