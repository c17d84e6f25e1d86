"""Floor 8: the command line. Wiring only; no arithmetic."""
