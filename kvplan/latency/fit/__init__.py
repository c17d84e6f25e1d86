"""Measurements to a latency profile: fitting, held-out scoring, bands. Only this part needs numpy."""
