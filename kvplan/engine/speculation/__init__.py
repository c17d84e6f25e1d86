"""Speculative decoding: drafts that a step verifies together, and what is rejected."""
