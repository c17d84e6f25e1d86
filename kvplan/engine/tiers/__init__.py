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

vLLM 0.33's own connector does otherwise; it is simulated as it is by ``engine.offloading``. It stores prompts
only, ranks all blocks of a request alike, does not store what finds no room beside running copies, passes
over requests whose blocks are on their way, and begins copies when a step has ended.
"""
