"""vLLM's own host memory below the GPU: ``OffloadingConnector`` (``--kv-offloading-size``), as of 0.33.

Reading order: ``chunk`` (what is stored, in runs along contents), ``spans`` and ``use`` (what a request did
with it), ``turn``, ``order`` with ``lru`` and ``arc`` (which chunks go first), ``cache`` (what the host has),
``copies`` (the two queues of the link), ``fence`` (blocks that are given away while they are being read),
``connector`` and ``scheduler``, and ``replica``. Whatever happens to chunks happens to whole runs of them.
Below a cache of several groups it is done chunk by chunk (``grouped``). With drafts:
``speculation.offloading`` and ``speculation.grouped``.

The rules, from its sources (``kv_connector/v1/offloading``, ``v1/kv_offload/cpu``):

- Chunks of the prompt are stored with the step that computes them, what the GPU's cache had included; outputs
  are not. The copy begins when that step has ended. Chunks of a step that do not all fit beside those that
  are being copied are not stored; they are tried again in every step of their request, and when it has ended.
- A chunk that is there is not stored again. One that is being written counts as there for who would store
  it; who would load it is passed over until it is. So is who would load what another request is loading, and
  who was preempted while its own copies are on their way.
- A load begins when the step that it was planned with has ended. It brings whole chunks.
- Blocks of a request that is over, or is preempted, may still be on their way to the host. A step that was
  given one of them (of who is preempted: any step) is launched only when the copy has ended.
- The scheduler hears of copies that ended with a step's output (``remote.replica``). Stores keep no engine
  awake: without requests it takes no step, and hears with its next one of what has ended meanwhile. So after
  an idle time whoever needs what was stored last is passed over once.

Not simulated: outputs in the host (``offload_prompt_only: false``), ``store_threshold``, loads within a step
(``sync_load_budget_bytes``), tiers below the host, the one copy that vLLM keeps of MLA caches which are the
same on all ranks, resets. Nor that vLLM loads a prompt of one token in blocks of one
token again and again.
"""
