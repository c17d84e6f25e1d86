"""Makes the helpers of the engine's tests and the random workloads of the law tests importable."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "laws")]
