"""Floor 5: how long a step takes."""
