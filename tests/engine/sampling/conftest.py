"""Makes the helpers of this directory, of the engine's tests and of the law tests importable."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1] / "laws")]
