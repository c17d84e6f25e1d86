"""Requests whose KV comes from elsewhere: another tier of memory, or another engine.

The rules are those of vLLM's KV connectors (v1). Read ``source`` for what a strategy has to provide,
``scheduler`` for what a load is to the scheduler, ``replica`` for its time.

::

    waiting --lookup--> loading (holds its blocks) --fetch ends--> loaded --admitted--> running
       |                                                                                   |
       +--------------------------- nothing elsewhere: admitted ----------------------------+

A request's way costs nothing here as long as ``lookup`` answers 0: a ``RemoteReplica`` then decides what a
``Replica`` decides. Only where blocks are short and steps overlap it differs, as vLLM does (``scheduler``).
"""
