"""What the Hopper kernels in CUDA C++ have in common on the host's side: layouts of operands, and their programs."""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from lama.kernels.cuda_kernel import CudaKernel

PIECES = Path(__file__).with_suffix(".cuh")
PIECE, ROW_BYTES, THREADS = 32, 64, 384  # as in hopper_pieces.cuh
UNIT = 8  # numbers in 16 bytes, which swizzling moves as one


def swizzled(rows: Tensor) -> Tensor:
    """Reorder the units of 16 bytes in each row as the copy engine does (SWIZZLE_64B, SWIZZLE_128B).

    Args:
        rows: (.., n, 32 or 64) float16, n a multiple of 8.

    Returns:
        the same shape; each unit has moved within its row, by the row's number.
    """
    units = rows.unflatten(-1, (-1, UNIT))
    count, in_row = units.shape[-3:-1]
    turn = torch.arange(count) * in_row // 8 % in_row  # of each row: it changes every 128 bytes
    order = torch.arange(in_row)[None, :] ^ turn[:, None]
    return units.gather(-2, order[:, :, None].expand(*units.shape).to(rows.device)).flatten(-2)


def in_pieces(matrix: Tensor) -> Tensor:
    """Lay out the rows of a product (.., n, k) float16, k a multiple of 32: (.., k / 32, n, 32), swizzled."""
    return swizzled(matrix.unflatten(-1, (-1, PIECE)).transpose(-2, -3)).contiguous()


def in_registers(rows: Tensor) -> Tensor:
    """Lay out the rows of products as wgmma takes its first operand from registers.

    Args:
        rows: (groups, 64, terms), terms a multiple of 16.

    Returns:
        (groups, terms / 16, 128, 8): step of 16 terms, thread, and the numbers of its four registers: two neighbouring
        terms of a row, of the eighth row after it, then of both the two terms eight further on.
    """
    # (group, warp, eight of rows, row, step, eight of terms, pair of terms, term)
    parts = rows.reshape(len(rows), 4, 2, 8, -1, 2, 4, 2)
    return parts.permute(0, 4, 1, 3, 6, 5, 2, 7).reshape(len(rows), -1, 128, 8).contiguous()


def program(
    *files: Path,
    numbers: Mapping[str, int],
    outside: Iterable[int] = (),
    inside: Iterable[int] = (),
    from_registers: Iterable[int] = (),
) -> str:
    """Put a kernel and all that it needs together.

    Args:
        *files: its text, what it needs besides `hopper_pieces.cuh` first.
        numbers: constants to write before it.
        outside: columns of its products whose second operand has terms as its rows.
        inside: columns of those whose second operand has columns as its rows.
        from_registers: columns of those whose first operand is in registers; the second has columns as its rows.

    Returns:
        The text to compile.
    """
    head = [f"constexpr int {constant.upper()} = {number};" for constant, number in numbers.items()]
    head.append("typedef unsigned int word;\ntypedef unsigned long long wide;")
    for function, operand, transposed, sizes in (
        ("multiply_terms_outside", "wide", 1, outside),
        ("multiply_terms_inside", "wide", 0, inside),
        ("multiply_registers", "const word*", 0, from_registers),
    ):
        head.append(f"template <int N> __device__ void {function}(float* sums, {operand} a, wide b, int adds);")
        head += [_product(function, operand, size, transposed) for size in sorted(set(sizes))]
    texts = [file.read_text(encoding="utf-8") for file in (PIECES, *files)]
    return "\n".join([*head, *texts])


def _product(function: str, operand: str, columns: int, transposed: int) -> str:
    """One wgmma instruction: 64 rows, `columns`, 16 terms; sums = a b, or sums + a b where `adds` is not 0.

    `a` is a description of shared memory, or four registers of each thread. `transposed` is 1 where the second operand
    has terms as its rows.
    """
    count = columns // 2
    sums = ", ".join(f"%{n}" for n in range(count))
    operands = ", ".join(f'"+f"(sums[{n}])' for n in range(count))
    if operand == "wide":
        last, first, given, layout = count, f"%{count}", '"l"(a)', f"0, {transposed}"
    else:
        last, first = count + 3, f"{{%{count}, %{count + 1}, %{count + 2}, %{count + 3}}}"
        given, layout = '"r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])', f"{transposed}"
    return (
        f"template <> __device__ __forceinline__ void {function}<{columns}>("
        f"float* sums, {operand} a, wide b, int adds) {{\n"
        f'    asm volatile("{{\\n.reg .pred adding;\\nsetp.ne.b32 adding, %{last + 2}, 0;\\n'
        f"wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.f16.f16 {{{sums}}}, {first}, %{last + 1}, adding, 1, 1, "
        f'{layout};\\n}}\\n" : {operands} : {given}, "l"(b), "r"(adds));\n}}'
    )


@cache
def loaded(text: str, name: str, shared_bytes: int, device: torch.device) -> CudaKernel:
    """Return the kernel of a program, compiled and loaded onto a device once in a process."""
    from triton import knobs

    with torch.cuda.device(device):
        return CudaKernel(text, name, shared_bytes=shared_bytes, folder=Path(knobs.cache.dir))
