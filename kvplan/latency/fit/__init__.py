"""Measurements to a latency profile: fitting, held-out scoring, bands. The only part of latency that needs numpy."""
