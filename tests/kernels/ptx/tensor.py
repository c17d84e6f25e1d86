"""Matrix instructions: ``mma``, ``wgmma``, and moving 8 x 8 tiles between registers and shared memory.

Fragments are laid out over a warp's lanes as PTX defines them: of every 8 x 8 tile of 16-bit elements, a lane holds
elements ``2 (lane % 4)`` and the next of row ``lane / 4``, in one 32-bit register.
"""

from __future__ import annotations

import re

import numpy as np

from tests.kernels.ptx.memory import Fault
from tests.kernels.ptx.shared import SharedMemory

LANES = 32
SWIZZLES = {0: 0, 1: 7, 2: 3, 3: 1}
"""Which address bits from 7 up are mixed into those from 4 up, by a descriptor's layout: none, 128, 64, 32 bytes."""
SPANS = {1: 128, 2: 64, 3: 32}


def halves(registers: np.ndarray, kind: str) -> np.ndarray:
    """32-bit registers [..., n] as pairs of 16-bit numbers, float32 [..., n, 2]."""
    pairs = np.ascontiguousarray(registers).view(np.uint16).reshape(*registers.shape, 2)
    return numbers(pairs, kind)


def numbers(bits: np.ndarray, kind: str) -> np.ndarray:
    """16-bit codes as float32."""
    if kind == "f16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def gather_rows(fragment: np.ndarray) -> np.ndarray:
    """A fragment [warps, 32, rows of tiles, columns of tiles, 2] to a matrix [warps, 8 rows, 8 columns]."""
    warps, _, down, across, _ = fragment.shape
    tiles = fragment.reshape(warps, 8, 4, down, across, 2)
    return tiles.transpose(0, 3, 1, 4, 2, 5).reshape(warps, 8 * down, 8 * across)


def spread_rows(matrix: np.ndarray) -> np.ndarray:
    """The way back: [warps, rows, columns] to [warps, 32, rows / 8, columns / 8, 2]."""
    warps, rows, columns = matrix.shape
    tiles = matrix.reshape(warps, rows // 8, 8, columns // 8, 4, 2)
    return tiles.transpose(0, 2, 4, 1, 3, 5).reshape(warps, LANES, rows // 8, columns // 8, 2)


def left(registers: list[np.ndarray], kind: str) -> np.ndarray:
    """The 16 x 16 left operand of each warp, from four registers a thread: [warps, 16, 16]."""
    held = halves(np.stack(registers, -1).reshape(-1, LANES, 4), kind)
    # Registers go down first: rows 0 and 8 of columns 0, then of columns 8.
    return gather_rows(held.reshape(-1, LANES, 2, 2, 2).transpose(0, 1, 3, 2, 4))


def right(registers: list[np.ndarray], kind: str) -> np.ndarray:
    """The 16 x 8 right operand of each warp, from two registers a thread: [warps, 16, 8]."""
    held = halves(np.stack(registers, -1).reshape(-1, LANES, 2), kind)
    return gather_rows(held.reshape(-1, LANES, 1, 2, 2)).transpose(0, 2, 1)


def sums(registers: list[np.ndarray]) -> np.ndarray:
    """Accumulators of each warp from n registers a thread: float32 [warps, 16, 2 n]."""
    count = len(registers)
    held = np.stack(registers, -1).view(np.float32).reshape(-1, LANES, count // 4, 2, 2)
    return gather_rows(held.transpose(0, 1, 3, 2, 4))


def unsummed(matrix: np.ndarray) -> list[np.ndarray]:
    """Accumulators back into registers."""
    spread = spread_rows(matrix.astype(np.float32)).transpose(0, 1, 3, 2, 4)
    flat = np.ascontiguousarray(spread).reshape(spread.shape[0] * LANES, -1)
    return [np.ascontiguousarray(flat[:, i]).view(np.uint32) for i in range(flat.shape[1])]


def multiply(name: str, d: int, operands: list[list[np.ndarray]]) -> list[np.ndarray]:
    """``mma.sync`` m16n8k16: registers of a, b and c to registers of d."""
    found = re.fullmatch(r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.(bf16|f16)\.\1\.f32", name)
    assert found, name
    assert d == 4, name
    a, b, c = operands
    product = np.matmul(left(a, found[1]), right(b, found[1]), dtype=np.float64)
    return unsummed(product + sums(c))


def descriptor(bits: int, rows: int, transposed: bool) -> np.ndarray:
    """Addresses of a [rows, 16] operand in shared memory, by a matrix descriptor: int64 [rows, 16].

    Args:
        transposed: neighbours in memory are neighbours along the rows, not along the product.
    """
    start, lead, stride = ((bits >> at & 0x3FFF) << 4 for at in (0, 16, 32))
    layout = bits >> 62 & 3
    if layout and bits >> 49 & 7:
        raise Fault("a matrix descriptor whose swizzling begins between its patterns")
    row, k = np.arange(rows)[:, None], np.arange(16)[None, :]
    if layout == 0:
        across, along = (k, row) if transposed else (row, k)
        # Core matrices of eight rows of 16 bytes.
        return start + across % 8 * 16 + along % 8 * 2 + k // 8 * lead + row // 8 * stride
    span = SPANS[layout]
    if transposed:
        wide = span // 2
        place = row % wide * 2 + row // wide * lead + k % 8 * span + k // 8 * stride
    else:
        place = k * 2 + row % 8 * span + row // 8 * stride
    address = start + place
    return address ^ ((address >> 7 & SWIZZLES[layout]) << 4)


def multiply_group(name: str, shared: SharedMemory, accumulators: list[np.ndarray],
                   operands: list[list[np.ndarray]], numbers_after: list[int]) -> list[np.ndarray]:  # fmt: skip
    """``wgmma`` m64nNk16 by every group of four warps: registers of the accumulators to the same.

    Args:
        operands: the left one as four registers or one descriptor, the right one as a descriptor.
        numbers_after: whether to add to what is there, signs, and which operands are transposed.
    """
    found = re.fullmatch(r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k16\.f32\.(bf16|f16)\.\2", name)
    assert found, name
    columns, kind = int(found[1]), found[2]
    a, b = operands
    adds, sign_a, sign_b, *turned = numbers_after
    assert (sign_a, sign_b) == (1, 1), name
    groups = len(b[0]) // 128
    by_registers = len(a) == 4
    if by_registers:
        first = left(a, kind).reshape(groups, 64, 16)
    else:
        first = np.stack([_operand(shared, a[0], g, 64, bool(turned[0]), kind) for g in range(groups)])
    second = np.stack([_operand(shared, b[0], g, columns, bool(turned[-1]), kind) for g in range(groups)])
    product = np.matmul(first, second.transpose(0, 2, 1), dtype=np.float64).reshape(groups * 4, 16, columns)
    return unsummed(product + sums(accumulators) if adds else product)


def _operand(
    shared: SharedMemory, descriptors: np.ndarray, group: int, rows: int, transposed: bool, kind: str
) -> np.ndarray:
    mine = descriptors[128 * group : 128 * group + 128]
    if bool((mine != mine[0]).any()):
        raise Fault("threads of a warp group give different matrix descriptors")
    addresses = descriptor(int(mine[0]), rows, transposed)
    return numbers(shared.operand(addresses.reshape(-1)).reshape(rows, 16), kind)


def load_tiles(name: str, shared: SharedMemory, addresses: np.ndarray, warps: np.ndarray) -> list[np.ndarray]:
    """``ldmatrix``: 1, 2 or 4 tiles for each warp; one register a thread for each."""
    count, transposed = _tiles(name)
    found = []
    for tile in range(count):
        rows = addresses.reshape(-1, LANES)[:, 8 * tile : 8 * tile + 8]
        owners = np.repeat(warps.reshape(-1, LANES)[:, 0], 8)
        matrix = shared.read(rows.reshape(-1), 16, owners).view(np.uint16).reshape(-1, 8, 8)
        matrix = matrix.transpose(0, 2, 1) if transposed else matrix
        pairs = np.ascontiguousarray(spread_rows(matrix)[:, :, 0, 0])
        found.append(pairs.view(np.uint32).reshape(-1))
    return found


def store_tiles(
    name: str, shared: SharedMemory, addresses: np.ndarray, registers: list[np.ndarray], warps: np.ndarray
) -> None:
    """``stmatrix``: the way back."""
    count, transposed = _tiles(name)
    for tile in range(count):
        rows = addresses.reshape(-1, LANES)[:, 8 * tile : 8 * tile + 8]
        owners = np.repeat(warps.reshape(-1, LANES)[:, 0], 8)
        pairs = np.ascontiguousarray(registers[tile]).view(np.uint16).reshape(-1, LANES, 1, 1, 2)
        matrix = gather_rows(pairs)
        matrix = np.ascontiguousarray(matrix.transpose(0, 2, 1) if transposed else matrix)
        shared.write(rows.reshape(-1), matrix.view(np.uint8).reshape(-1, 16), owners)


def _tiles(name: str) -> tuple[int, bool]:
    found = re.fullmatch(r"(?:ld|st)matrix\.sync\.aligned\.m8n8\.x([124])(\.trans)?\.shared\.b16", name)
    assert found, name
    return int(found[1]), bool(found[2])
