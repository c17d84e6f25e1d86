"""vLLM's own host memory below a cache of several groups: chunk by chunk and block by block.

A chunk is of one group: so many of its blocks, known by the prefix that ends with it. Groups of full
attention store whatever is computed; windows only what a later hit could need, and what is still there when
its turn comes (``layout``, ``storing``); states what the device publishes. A load brings what every group
needs before one token (``lookup``): full attention all of it, the others the last chunks.

Which blocks are copied depends on their numbers: a window gives blocks back while they are copied, others are
given them, and the step that writes them waits for the copy (``fences``). So the device's cache is kept with
numbered blocks (``engine.numbered``), with states that are handed on (``cache``); who runs is decided as
everywhere else (``scheduler``). The host's cache is ``host``, with ``recency`` and ``adaptive`` for what goes
first.
"""
