"""A cache of several groups in which every block has a number, for engines in which that decides something.

The scheduler of ``engine.hybrid`` decides over the tables of ``engine.reference``: which blocks are copied,
sent or given away follows from them, and groups may have blocks of any sizes.
"""
