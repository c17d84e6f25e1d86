"""Prefill and decode on instances of their own, with the KV cache sent from one to the other.

::

    arrives -> router -> prefill instance --KV--> decode instance -> finished
                         (holds the blocks        (blocks reserved first, LOADING
                          until they are sent)     until everything has come)

Read ``engine`` for the order of events, ``prefill`` and ``decode`` for what the two kinds of instance do
differently from a plain one, ``fabric`` and ``pipeline`` for the time a transfer takes. The rules are those
of vLLM's KV connectors (v1): the prefill side is asked for one token, and the decode side computes the last
prompt token again. Which of the two tokens a client sees first is ``FirstToken``. With drafts:
``speculation.pools``; of several cache groups: ``grouped``.
"""
