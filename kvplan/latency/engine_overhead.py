"""What an engine does on the CPU that the GPU waits for: assumed where no serving run was fitted."""

from __future__ import annotations

STEP_S = 0.8e-3
"""Every step: scheduling, preparing inputs, sampling, handing over outputs."""
REQUEST_S = 5e-6
"""Every sampled request of it."""

LONGEST_S = 60.0
"""Most that a constant of either may be."""
