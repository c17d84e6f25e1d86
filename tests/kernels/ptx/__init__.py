"""A machine that runs PTX on the CPU: what Triton compiled for a GPU, thread by thread, in numpy.

Triton's interpreter shows that a kernel's mathematics is right; it knows no inline assembly, layout, shared memory or
pipeline. This runs what the compiler made of all that, up to the last step before machine code, and refuses what a
GPU would not forgive: an address outside every tensor or misaligned, shared memory read before it is written or in a
race, a matrix operand no fence has made visible.

Reading order: ``source`` (text to instructions), ``memory``, ``shared`` (with ``traffic``), ``arithmetic``, ``conversions``, ``tensor``
(matrix instructions), ``machine`` (registers and control), ``device`` (puts it in the place of Triton's driver).
Threads of a block go in step; branches must be taken by all of them, as Triton's are. Instructions that no kernel
here has made the machine meet are errors, not guesses.
"""
