"""Data-parallel attention: ranks with requests and a KV pool of their own, in step with each other.

Where attention is data-parallel, a sequence and its cache live on one rank, while layers of experts work for
the tokens of all ranks (SGLang's ``--enable-dp-attention``, vLLM's ``--data-parallel-size`` with experts). So
every rank enters every step together with the others: a step lasts as long as that of the slowest rank, and
ranks that have nothing to do run along with an empty batch.
"""
