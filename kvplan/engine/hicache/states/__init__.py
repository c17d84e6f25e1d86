"""Host memory for a model with recurrent layers: tokens in one pool of the host, states in another.

Reading order: ``node``, ``memory`` (slots of the host, and which state leaves them first), ``index`` (the
tree over four pools), then ``scheduler`` and ``replica``.

What is different from host memory for tokens alone:

- A prefix may be used where a state is kept at its end, on the device or in the host. A state that is only
  in the host is loaded into two slots: one of the tree's and one of the request's. Such a load is never too
  short.
- A state travels with the tokens of its node. One that is put behind tokens which the host has already
  follows by itself, unless those are on their way just then (``write_through``).
- The host's slots are given up least recently used first; nothing ages there by being found. A leaf of the
  host goes whole, elsewhere the state alone.
- ``write_back``: a state that leaves the device from amidst the tree is copied with its tokens, if the host
  has neither.
- What is copied is held, and its state with it: a pool of states that is just large enough for the requests
  that run may have none left for the next one, at which SGLang stops (``OutOfStates``).
"""
