"""Memory below the device: host and disk as tiers of the prefix cache, and swap instead of recomputing.

Reading order: ``line`` (a link with its queue), ``residency`` (which contents are where, in runs of blocks),
``tier`` (one tier's blocks and the order in which they go), ``stack`` (stores, hits, the cascade from tier to
tier), ``swap``, and ``scheduler`` and ``replica``, which connect all that to an engine with loads.

What is assumed:

- Copies run beside computing (DMA); a step waits for none of them, a request waits for its own.
- A block that is written out is free for others at once: the copy is staged. It occupies its link.
- What a step publishes or evicts is one transfer, which begins with the step. What decoding steps evict joins
  the next transfer; what a request generates is written through when the request ends or is preempted.
- A fetch from disk passes through the host: first the whole disk read, then the copy to the device. Blocks
  that are still being written are waited for.

vLLM 0.33's own connector (``OffloadingConnector``) does otherwise, as its source says:

- It stores prompts only (``offload_prompt_only``, on by default), each chunk at the start of the step after
  the one that computes it.
- Its LRU order has one rank for all blocks of a request, from its first use on, and a new one when it ends.
  Here each use counts for itself, so of a long prompt computed in chunks the first ones may go first.
- What does not fit beside blocks that are being copied is not stored at all, and tried again with the next
  step.
- A request that hits blocks which are still being written, or which another request loads, is passed over
  until they are there, and holds nothing meanwhile. Here it begins, and its load waits for the write.
"""
