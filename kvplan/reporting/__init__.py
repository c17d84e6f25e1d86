"""Floor 7: a result turned into something to read. Never simulates."""
