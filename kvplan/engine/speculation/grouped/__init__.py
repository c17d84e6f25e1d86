"""Drafts above vLLM's own host memory, on a cache of several groups, or of modules that draft in turns.

What ``speculation.loading`` says of drafts and loads holds here, and what ``offloading.grouped`` says of
chunks. Beside that, beside a connector vLLM keeps its older hashes, so the cache must not find what a later
token changed in the layers that draft:

- Groups with such a layer, and those looked up together with them, are asked for one block more than the
  others allow, and do not use the last one that they find. They publish that block, too: also behind where a
  hit can end. In the host it is a chunk, and of groups with such a layer only.
- So hits end one block earlier; that is where recurrent states are kept, and windows.
- Beside the running state a request has one for every draft; tables of states move them to their end
  (``states``).
- Where several modules draft in turns, which may compute the last tokens again, windows keep as many tokens
  more (``windows``), and blocks are published that much later, though stored as soon as they are computed.
  Which blocks are read while others are given them then depends on their numbers, also with one group of
  full attention.
"""
