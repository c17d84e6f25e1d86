"""Host memory below SGLang's radix cache: ``--enable-hierarchical-cache`` (HiCache L2) of 0.5.23.

Reading order: ``node`` (a piece of a prefix that is on the device, in the host, or both), ``host`` (tokens of
the host's pool), ``copies`` (what travels, and when it has arrived), ``tree`` (where nodes are, and which may
go), ``index`` (what is looked up, inserted, copied and evicted), ``duplicates`` (what the host gives up first
under ``write_back``), then ``scheduler`` and ``replica``, which connect all that to the engine.

The tree is ``UnifiedRadixCache``, which every ordinary model gets with HiCache as without. Decisions were
compared step by step with the real scheduler, tree (Python and Rust core) and cache controller, their copies
replaced by times.

When what is copied:

- ``write_through``: a node as it is inserted; ``write_through_selective``: with its second insertion. Its
  ancestors go first, if they have no copy; a failure (nothing left to evict in the host) ends it, and the
  next insertion tries again. While it is written the node is held. What one step inserts is one transfer.
- ``write_back``: a node as it leaves the device. The scheduler waits for each of these copies, so the batch
  that needed the room starts later. Insertions are not counted: ``lfu`` and ``slru`` see none.
- A hit in the host is loaded when its request is let in, all of it or, if it is shorter than 10 tokens or
  does not fit, nothing: then its tokens are computed again. Until the load is through the nodes are held.
  Whoever hits them meanwhile finds them on the device, and its batch comes later anyway.

Times (each direction of the link is a queue):

- A copy begins when the batches that were launched before it are through, as both streams wait for the
  forward stream: with overlap a step's insertions are copied after the step that follows.
- Loads arrive layer by layer, and the forward pass waits for each layer. So nobody waits for a load, but the
  step that follows it takes at least as long as the load (its last layer's own time left out).
- The scheduler looks whether copies have arrived once per step, when it makes a batch.

What lies beside tokens below the same tree: ``beside``; recurrent states: ``states``, sliding windows:
``windows``; drafts: ``speculation.sglang.hicache``; below prefill servers: ``disaggregation.sglang.hosted``,
below ranks of data-parallel attention: ``lockstep.hicache``, of prefill servers:
``disaggregation.sglang.hosted_ranks``.

Not simulated: storage below the host (``--hicache-storage-backend``) and ``buffer_only``, GPUs of one rank
that disagree about what has arrived. Where nothing runs and nothing fits until a copy has arrived, SGLang
polls, and refreshes the queue's prefixes every 32 polls; here it looks when that happens.
"""
