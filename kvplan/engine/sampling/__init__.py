"""Several answers to one prompt: parallel samples and beams."""
