"""Runs the first downsampling's kernel without a card.

Its text is compiled for this machine's processor, and each of its threads is a thread here.
"""

import ctypes
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lama.kernels.hopper_downsampling import NUMBERS, SOURCE

INSTRUCTIONS = Path(__file__).with_suffix(".hpp")
FLAGS = ("-std=c++20", "-O2", "-w", "-shared", "-fPIC", "-pthread", "-mf16c")
LONGEST_S = 300
ENTRY = """
extern "C" long run(int programs, const TensorMap* maps, const char* weights, const float* bias, int units, int strips,
                    int out_height) {
    return run_programs(programs, [=] {
        downsample(maps[0], maps[1], maps[2], maps[3], weights, bias, units, strips, out_height);
    });
}
"""


def skip_without_host_compiler() -> None:
    """Skip the test where this machine's processor has no g++ that knows its instructions for float16."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not here")
    trial = subprocess.run([compiler, "-mf16c", "-xc++", "-", "-fsyntax-only"], input=b"_Float16 half;", check=False)
    if trial.returncode:
        pytest.skip("g++ does not know float16 here")


class EmulatedKernel:
    """What `CudaKernel` is on a card."""

    def __init__(self, library: Path) -> None:
        self._run = ctypes.CDLL(str(library)).run
        self._run.restype = ctypes.c_long

    def launch(self, blocks: int, _threads: int, values: Sequence[Any], _types: Sequence[Any], *, early: bool) -> None:
        """Run all programs; the arguments are the kernel's."""
        *maps, weights, bias, units, strips, out_height = values
        together = (ctypes.c_uint64 * (14 * len(maps)))(*[number for each in maps for number in each])
        pointers = (ctypes.c_void_p(weights), ctypes.c_void_p(bias))
        faults = self._run(blocks, together, *pointers, units, strips, out_height)
        assert faults == 0

    @staticmethod
    def tensor_map(
        values: torch.Tensor, sizes: Sequence[int], strides: Sequence[int], box: Sequence[int], *, row_bytes: int
    ) -> list[int]:
        """Describe memory as `cuda_kernel.tensor_map` does, for this card."""
        filled = [list(numbers) + [1] * (4 - len(numbers)) for numbers in (sizes, box)]
        steps = [2 * stride for stride in strides] + [0] * (3 - len(strides))
        return [values.data_ptr(), len(sizes), *filled[0], *steps, *filled[1], row_bytes]


def emulated(folder: Path) -> EmulatedKernel:
    """Compile the kernel's text for this machine, without its single instructions, which the emulated card has."""
    constants = "".join(f"constexpr int {name.upper()} = {number};\n" for name, number in NUMBERS.items())
    # Definitions begin at the start of a line, with what is said of them before.
    blocks = re.split(r"(?m)^(?=__device__|extern|//|constexpr|static_assert)", SOURCE.read_text(encoding="utf-8"))
    text = "".join(block for block in blocks if "asm" not in block)
    text = text.replace("extern __shared__ __align__(1024) char memory[];", "char* memory = nullptr;")
    program, library = folder / "kernel.cpp", folder / "kernel.so"
    program.write_text(f'#include "{INSTRUCTIONS}"\n{constants}{text}{ENTRY}', encoding="utf-8")
    subprocess.run(["g++", *FLAGS, program, "-o", library], check=True, timeout=LONGEST_S)
    return EmulatedKernel(library)
