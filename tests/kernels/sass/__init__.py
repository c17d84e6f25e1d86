"""How fast compiled loops could run on an H100, from their machine code: no measurement, but what one can be compared
with.

``cubin`` reads instructions with what the assembler wrote beside each for the scheduler (how long to stall, which
counters to wait for); ``units`` says which unit of a multiprocessor an instruction keeps busy and for how long;
``timeline`` runs the warps of several programs on one multiprocessor, whose units and memory they share; ``fill``
deals programs to multiprocessors; ``bounds`` makes a table of all shipped decodes.
"""
