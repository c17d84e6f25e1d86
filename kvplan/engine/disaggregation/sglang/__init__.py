"""SGLang's prefill and decode servers (``--disaggregation-mode``, 0.5.23).

::

    arrives -> router -> decode instance: KV reserved --+
                      -> prefill instance: waits for it +-> prompt computed --KV, chunk by chunk--> decodes

Both instances have a request from its arrival. The decode instance reserves KV for the prompt first, and only
then may the prefill instance compute it: back pressure is felt before the prompt, not behind it. The prefill
instance samples the first token, sends it behind the cache, and the decode instance hands it out.

Read ``prefill`` and ``decode`` for the queues of the two kinds of instance, ``engine`` for what happens
between them, ``ranks`` for data-parallel attention, ``windows`` and ``states`` for pools beside the tokens
(``payload``: what is sent of them), ``radix`` for decode servers that keep prefixes, ``hosted`` and
``hosted_beside`` for host memory below prefill servers. With drafts: ``speculation.sglang.pools`` and
``hosted_pools``.

Not simulated: host memory below decode servers (``enable_decode_hicache``), whose prefixes come back from the
host while the rest of a prompt is on its way.
"""
