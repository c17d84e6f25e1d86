"""Floor 1: what a model, a GPU, a link and a KV number format are."""
