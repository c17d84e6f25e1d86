"""Which cached blocks go first when the pool runs out: one file a policy, all under one contract.

``policy`` is the contract, ``index`` the prefix index that asks it, ``order`` the heap most policies keep.
vLLM's own order (``lru``) needs none of this: it is the queue of ``engine.blocks``.
"""
