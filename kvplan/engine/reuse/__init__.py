"""Which prefixes may be used again, beyond what the engine itself does: whole units only, and pinned ones.

``PrefixReuse`` is what a scenario asks for; read ``units`` for the granularity and ``pins`` for pinning.
"""
