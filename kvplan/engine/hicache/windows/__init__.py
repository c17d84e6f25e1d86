"""Host memory for a model with sliding windows: tokens in one pool of the host, windows in another.

Reading order: ``node``, ``memory`` (the host's pool for windows, and what leaves it first), ``index`` (the
tree over four pools), then ``budget``, ``scheduler`` and ``replica``.

What is different from host memory for tokens alone:

- A prefix may be used where the window before its end is kept, piece by piece on the device or in the host.
  What only the host has of that window is loaded with the tokens before it, and never too short for it; of
  windows further back nothing is.
- A window travels with the tokens of its node, and with it those before it, as far as a layer looks back,
  that the host has not yet. One that is put where the host has tokens already follows by itself, unless these
  are on their way just then.
- Windows leave the host least recently put there first; nothing ages there by being found. A leaf of the host
  goes whole, elsewhere the window alone.
- ``write_back``: a window that leaves the device from amidst the tree is copied with its tokens, if the host
  has neither.
- Whoever asks for room is charged what its load takes of the window pool, too.
"""
