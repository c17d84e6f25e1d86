"""Recurrent states below SGLang's scheduler: Mamba, gated delta nets and linear attention in 0.5.23.

Reading order: ``rules`` (slots, and where a state is kept), ``node`` and ``queue`` (a state in the tree, and
which goes first), ``index`` (the radix cache of tokens and states), ``request``, ``pool`` (what a request has
of both), ``scheduler`` and ``replica``, which connect that to the engine.

A prefix is of use only with the state behind its last token, and a state is one slot of a pool beside that
of tokens. So states are rare: they are kept where prefill ends a step, and at some places of an answer.

``extra_buffer``, the strategy of models whose kernels can leave states on their way (Qwen3-Next, Qwen3.5,
Nemotron-H, Kimi-Linear, Granite 4, Falcon-H1, Ling): a request has a slot for its own state and two spare
ones, one where nothing runs ahead.

- A prefill step keeps one state: behind the last whole chunk of the kernels, counted from where the step
  begins; or, where the tree had more tokens than could be used for want of a state, at the last place of
  those that a later request would share (``mamba_branching_seqlen``).
- The tokens up to there go into the tree when the step is delivered, with the state; what is behind stays the
  request's own. A step of less than a chunk inserts nothing.
- While it decodes, a request keeps the state behind every 256th token in one of the spare slots, and the last
  of them goes into the tree when it finishes. Before the 256th token nothing of an answer is cached.

``no_buffer``, of others (LFM2, Jet-Nemotron, Zaya) and wherever the overlap schedule is off and pages have
one token: the state behind the last token is copied into the tree after every prefill step, and given to it
at the end. Nothing runs ahead, as the state would be overwritten.

Without a radix cache a request has one slot, and nothing is kept.

Both pools evict: tokens leaf by leaf as in the plain engine, with their states; states least recently used
first, where only the state a match ends with counts as used. A leaf goes with its state, elsewhere the tokens
stay, to be found but not used. Requests are never turned away for want of slots: no more run than
``max_mamba_cache_size`` has slots for.

Decisions, free and cached slots were compared step by step with SGLang's own scheduler, allocators and tree.

Drafts beside states: ``speculation.sglang.states``; host memory: ``hicache.states``; prefill and decode
servers: ``disaggregation.sglang.states``. Not simulated: ``extra_buffer_lazy``,
``--mamba-max-states-per-path``, checkpoints in int8, unified memory.
"""
