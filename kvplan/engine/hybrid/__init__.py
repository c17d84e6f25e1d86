"""vLLM's pools with several cache groups (full, sliding, chunked, state) at a cost far below a block's.

Full attention keeps long prefixes: a prefix index in segments each; so do local chunks, one after another.
Windows and states keep few blocks a request, and publish fewer: these are counted, and what is published lies
in strips.
"""
