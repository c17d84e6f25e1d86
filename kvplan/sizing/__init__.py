"""Floor 2: exact integer arithmetic on specs. No I/O, no numpy."""
