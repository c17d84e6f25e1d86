"""SGLang's scheduler where every decode step verifies drafts (EAGLE, EAGLE3, NEXTN, STANDALONE).

Reading order: ``request``, ``batch``, ``pool`` and ``scheduler``, which count what is known to stand, and
``replica``; ``states`` and ``windows`` put them above SGLang's pools for recurrent states and for windows,
``pools`` on its prefill and decode servers.
"""
