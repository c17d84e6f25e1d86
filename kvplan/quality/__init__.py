"""Floor 6: what a KV format costs in accuracy."""
