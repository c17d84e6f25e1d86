"""The Triton kernels. Its modules need triton; only launchers import them, when something is launched.

Traps of Triton met here, and how they are avoided:

- The interpreter multiplies raw bit patterns in a bf16 ``tl.dot``: the compute type is fp32 there, never bf16
  (``variants.Target``).
- Its fp32 to fp8 cast loses carries: fp8 codes are made with integer arithmetic (``encode.float8_code``).
- It has no inline assembly: ``ASM`` 0 selects the same bit operations.
- Triton 3.6 carries no constant through the return of a jit function: facts about formats are
  ``triton.constexpr_function``.
- Before 3.8 a load that is transposed before its product is not run ahead (``tile.load_rows``), and before
  3.9 assembly that may not be moved cannot be pipelined on data-centre Blackwell (``variants.Target``). What
  one release compiles well, another may spill: budgets are frozen for the oldest and the newest.
- Triton 3.6 lays out what was joined as if it were half as wide (``orders.join_slices``).
- Conversions between layouts go through shared memory, whose banks the interpreter does not have either:
  ``orders`` names elements so that there are fewer, and ``make ptx`` counts (``tests/kernels/ptx``).
- An early return merges with the later one, types and all: one return per function.
- Integer arguments are specialised on 1 and on multiples of 16: kernels say ``do_not_specialize``, or every
  batch shape would be compiled again.
"""
