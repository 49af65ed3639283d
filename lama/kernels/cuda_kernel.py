"""Kernels in CUDA C++: NVRTC compiles them when they are first needed, and they are kept beside Triton's."""

import contextlib
import ctypes
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

DIGEST_BYTES = 32
OPTIONS = ("--gpu-architecture=sm_90a", "--std=c++17", "-default-device")


class CudaKernel:
    """A kernel loaded onto the current device.

    Args:
        source: the program.
        name: of its `extern "C"` kernel.
        shared_bytes: the dynamic shared memory of one block.
        folder: where compiled programs are kept; None compiles anew.

    Raises:
        ImportError: cuda-bindings, which PyTorch brings on Linux, is not there.
        RuntimeError: the compiler or the driver refuses; the text says what it said. `torch.OutOfMemoryError` is one.
    """

    def __init__(self, source: str, name: str, *, shared_bytes: int, folder: Path | None) -> None:
        from cuda.bindings import driver

        torch.empty(1, device="cuda")  # PyTorch makes the device's context; the module is loaded into it
        self._module = _ask(driver.cuModuleLoadData(compiled(source, folder)))
        self._function = _ask(driver.cuModuleGetFunction(self._module, name.encode()))
        self._shared_bytes = shared_bytes
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _ask(driver.cuFuncSetAttribute(self._function, attribute, shared_bytes))
        self._launch = driver.cuLaunchKernelEx

    def launch(
        self, blocks: int, threads: int, values: Sequence[Any], types: Sequence[Any], *, early: bool = False
    ) -> None:
        """Launch it on PyTorch's current stream, in a grid of one dimension.

        Args:
            blocks: how many.
            threads: of a block.
            values: the kernel's arguments.
            types: of these: POINTER, FLOAT, INTEGER, or STRUCTURE for one of cuda-bindings.
            early: blocks may begin before the launches that this one waits for have ended, all of which were kernels:
                the kernel waits for them itself.

        Raises:
            RuntimeError: the driver refuses.
        """
        config = driver_config(
            blocks, threads, self._shared_bytes, torch.cuda.current_stream().cuda_stream, early=early
        )
        _ask(self._launch(config, self._function, (tuple(values), tuple(types)), 0))


def compiled(source: str, folder: Path | None) -> bytes:
    """Compile a program for Hopper cards, or take it out of `folder`.

    Args:
        source: the program.
        folder: where compiled programs are kept; None compiles anew.

    Returns:
        What the driver loads.

    Raises:
        ImportError: cuda-bindings is not there.
        RuntimeError: the compiler refuses; the text says what it said.
    """
    digest = hashlib.sha256("\n".join([source, *OPTIONS, str(torch.version.cuda)]).encode()).hexdigest()
    kept = folder / f"{digest}.cubin" if folder is not None else None
    if kept is not None and (code := _kept_code(kept)):
        return code
    from cuda.bindings import nvrtc  # late: a library of 100 MB

    program = _ask(nvrtc.nvrtcCreateProgram(source.encode(), b"kernel.cu", 0, [], []))
    options = [option.encode() for option in OPTIONS]
    status = nvrtc.nvrtcCompileProgram(program, len(options), options)[0]
    if int(status) != 0:
        log = bytes(_ask(nvrtc.nvrtcGetProgramLogSize(program)))
        _ask(nvrtc.nvrtcGetProgramLog(program, log))
        said = log.decode(errors="replace").rstrip("\0").strip()
        raise RuntimeError(f"NVRTC refuses a kernel: {status.name}: {said}")
    code = bytes(_ask(nvrtc.nvrtcGetCUBINSize(program)))
    _ask(nvrtc.nvrtcGetCUBIN(program, code))
    _ask(nvrtc.nvrtcDestroyProgram(program))
    if kept is not None:
        from imaging.atomic_write import write_atomically  # late: where programs are kept it is not needed

        with contextlib.suppress(OSError):  # a folder that can't be written: the next process compiles again
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(kept, hashlib.sha256(code).digest() + code)
    return code


def _kept_code(kept: Path) -> bytes | None:
    """Return a program that was kept, or None where there is none, or not as it was written: the driver trusts it."""
    try:
        data = kept.read_bytes()
    except OSError:
        return None
    digest, code = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
    return code if hashlib.sha256(code).digest() == digest else None


def driver_config(blocks: int, threads: int, shared_bytes: int, stream: int, *, early: bool) -> Any:
    """Describe a launch to the driver, as `CudaKernel.launch` says."""
    from cuda.bindings import driver

    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = blocks, 1, 1
    config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
    config.sharedMemBytes, config.hStream = shared_bytes, stream
    if early:
        value = driver.CUlaunchAttributeValue()
        value.programmaticStreamSerializationAllowed = 1
        attribute = driver.CUlaunchAttribute()
        attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attribute.value = value
        config.attrs, config.numAttrs = [attribute], 1
    return config


def tensor_map(
    values: torch.Tensor, sizes: Sequence[int], strides: Sequence[int], box: Sequence[int], *, row_bytes: int = 64
) -> Any:
    """Describe float16 memory to the copy engine, innermost dimension first.

    Args:
        values: where the first number lies.
        sizes: of the dimensions.
        strides: of all dimensions but the innermost, in numbers.
        box: what one copy takes.
        row_bytes: of its rows in shared memory, 64 or 128; the copy swizzles them.

    Returns:
        The description, which a kernel takes as a STRUCTURE.
    """
    from cuda.bindings import driver

    # cuda-bindings keeps the description at a multiple of 16 bytes, where the driver's document asks for 64. Drivers
    # seen so far take it.
    rank = len(sizes)
    return _ask(
        driver.cuTensorMapEncodeTiled(
            driver.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            rank,
            values.data_ptr(),
            [driver.cuuint64_t(size) for size in sizes],
            [driver.cuuint64_t(2 * stride) for stride in strides],
            [driver.cuuint32_t(size) for size in box],
            [driver.cuuint32_t(1)] * rank,
            driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            getattr(driver.CUtensorMapSwizzle, f"CU_TENSOR_MAP_SWIZZLE_{row_bytes}B"),
            driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    )


POINTER, FLOAT, INTEGER, STRUCTURE = ctypes.c_void_p, ctypes.c_float, ctypes.c_int, None
"""Types of a kernel's arguments."""


def _ask(answer: tuple[Any, ...]) -> Any:
    """Return what a call of cuda-bindings gave, or raise what went wrong."""
    status, *results = answer
    if status.name == "CUDA_ERROR_OUT_OF_MEMORY":
        raise torch.OutOfMemoryError("CUDA out of memory, as the driver says.")  # callers know PyTorch's
    if int(status) != 0:
        raise RuntimeError(f"CUDA: {status.name}")
    return results[0] if len(results) == 1 else tuple(results) if results else None
