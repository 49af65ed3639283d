"""Interpret the pickles inside PyTorch's weight files without running anything they say.

A pickle is a program. It is run here by an interpreter whose only callables are the tensor builders below; every other
class or function it names becomes an inert `Unknown`, and nothing is ever imported. What comes out is a tree of plain
containers, unknowns and `TensorRecord`s, which say where the numbers lie; `torch_archive` reads those.

Knows nothing of files' layouts or of LaMa. The builders are those of torch/_utils.py in PyTorch.
"""

import pickle
import struct
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import torch

DEEPEST_NESTING = 64
LONGEST_PICKLE_BYTES = 16 << 20  # a training checkpoint's object description is about 1 MiB
TOO_LONG = "claims an object description of more than 16 MiB, which no weight file has"
# Each takes half a microsecond or more here; the published checkpoint, optimiser and all, needs about 100,000.
MOST_INSTRUCTIONS = 500_000

STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}

# No training code has a reason to put these into a checkpoint: refused by name, so that the user learns of it.
ATTACK_MODULES = frozenset(
    "os,posix,nt,subprocess,sys,shutil,socket,importlib,runpy,pty,ctypes,code,codeop,commands,webbrowser".split(",")  # noqa: SIM905
)
ATTACK_BUILTINS = frozenset(["eval", "exec", "execfile", "compile", "__import__", "open", "input", "breakpoint"])

# What hostile or damaged bytes can make the pickle interpreter raise.
UNPICKLING_ERRORS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


class CheckpointError(ValueError):
    """A weight file that can't be used; the text says what it is, what was expected and what to do."""


@dataclass(frozen=True)
class Storage:
    """A run of numbers in the file that tensors are views of."""

    key: str
    dtype: torch.dtype
    length: int


@dataclass(frozen=True)
class TensorRecord:
    """A tensor as the pickle describes it: a strided view of a storage. Lengths and offsets count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Unknown:
    """Stands for any object the file names that is no tensor. Keeps what it is given and does nothing."""

    state: Any
    items: dict[Any, Any]

    def __new__(cls, *_args: Any, **_kwargs: Any) -> "Unknown":
        """Make one without state: the pickle interpreter may skip `__init__`."""
        unknown = super().__new__(cls)
        unknown.state, unknown.items = None, {}
        return unknown

    def __call__(self, *_args: Any, **_kwargs: Any) -> "Unknown":
        """Stand for what calling the named object would have made."""
        return Unknown()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        """Keep one value, as the interpreter does with the items of a list."""
        self.items[len(self.items)] = value

    def extend(self, values: Any) -> None:
        """Keep several values."""
        for value in values:
            self.append(value)

    add = append


class _ShortStream:
    """A stream that a pickle is read from, with an end: a file of the older layout says nowhere how long one is."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left_bytes = LONGEST_PICKLE_BYTES

    def read(self, size: int) -> bytes:
        return self._counted(self._stream.read(min(size, self._left_bytes + 1)))

    def readline(self) -> bytes:
        return self._counted(self._stream.readline(self._left_bytes + 1))

    def _counted(self, data: bytes) -> bytes:
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise CheckpointError(TOO_LONG)
        return data


class _CountedInstructions(dict[int, Any]):
    """What the interpreter does at each instruction, and how many it may still carry out."""

    left = MOST_INSTRUCTIONS

    def __getitem__(self, code: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise CheckpointError("describes more objects than any weight file has")
        return super().__getitem__(code)


class TensorUnpickler(pickle._Unpickler):
    """A pickle interpreter that can build tensor records, plain containers and `Unknown` objects only.

    The one written in Python, because the C one takes memory for whatever memo index the file claims: 32 GiB
    for a file of 20 bytes. `storages` collects every storage met, by key.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        # latin1 as in PyTorch: strings written by Python 2 are bytes.
        super().__init__(_ShortStream(stream), encoding="latin1")
        self.dispatch = _CountedInstructions(pickle._Unpickler.dispatch)  # type: ignore[misc]
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Find what stands for a name in the file; import nothing.

        Args:
            module: that the file names.
            name: within the module.

        Returns:
            what builds a tensor record or a container, a storage's dtype, or `Unknown`.

        Raises:
            CheckpointError: the name can only serve to run something when the file is opened.
        """
        if module.split(".")[0] in ATTACK_MODULES or (
            module in ("builtins", "__builtin__") and name in ATTACK_BUILTINS
        ):
            raise CheckpointError(
                f"contains instructions to run {module}.{name} when it is opened, which no weight file needs; "
                "nothing was run. Delete it, and take the weights from a source you trust"
            )
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module in ("torch", "torch.storage", "torch.cuda") and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        # Bound methods, which the file can't alter, and which end with this interpreter.
        builders = {
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): self._first,
            ("torch._utils", "_rebuild_parameter_with_state"): self._first,
            ("torch._tensor", "_rebuild_from_type_v2"): self._from_type,
            ("torch.jit._pickle", "restore_type_tag"): self._first,
        }
        return builders.get((module, name), Unknown)

    def persistent_load(self, pid: Any) -> Any:
        """Note a storage: ("storage", type, key, device, length[, view of the older layout])."""
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise pickle.UnpicklingError("a reference to something that is no storage")
        _, dtype, key, _device, length = pid[:5]
        if not isinstance(dtype, torch.dtype):
            return Unknown()
        storage = Storage(str(key), dtype, whole_number(length))
        self.storages[storage.key] = storage
        is_view = len(pid) > 5 and pid[5] is not None  # a layout of before 2017
        return Unknown() if is_view else storage

    @staticmethod
    def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_rest: Any) -> Any:
        if not isinstance(storage, Storage):
            return Unknown()
        record = TensorRecord(
            storage, whole_number(offset), tuple(map(whole_number, shape)), tuple(map(whole_number, stride))
        )
        check_inside_storage(record)
        return record

    @staticmethod
    def _first(value: Any, *_rest: Any) -> Any:
        return value

    def _from_type(self, build: Any, _type: Any, arguments: Any, _state: Any) -> Any:
        return self._tensor(*arguments) if build == self._tensor else Unknown()


def whole_number(value: Any) -> int:
    """Return `value` if it is an int from 0 up, else raise ValueError."""
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"a size or position that is no whole number: {value!r}")
    return value


def check_inside_storage(record: TensorRecord) -> None:
    """Raise ValueError if a tensor reaches past its storage or claims more elements than the storage has."""
    if len(record.shape) != len(record.stride):
        raise ValueError("a tensor with more sizes than strides")
    elements = 1
    last = record.offset
    for size, stride in zip(record.shape, record.stride, strict=True):
        elements *= size
        last += max(size - 1, 0) * stride
    if elements and (last >= record.storage.length or elements > record.storage.length):
        raise ValueError(f"a tensor of shape {record.shape} in a storage of {record.storage.length} numbers")


def named_tensors(root: Any) -> dict[str, TensorRecord]:
    """Find every tensor below `root` and name it by its path, dotted.

    Containers that modules keep their members in (`_parameters`, `_buffers`, `_modules`) leave no trace in the name,
    so a pickled module has the names of its state dict. An object met twice counts where it is met first.
    """
    found: dict[str, TensorRecord] = {}
    seen: set[int] = set()
    waiting: list[tuple[tuple[str, ...], Any]] = [((), root)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, TensorRecord):
            found.setdefault(".".join(path), value)
        elif isinstance(value, dict | list | tuple | Unknown) and id(value) not in seen and len(path) < DEEPEST_NESTING:
            seen.add(id(value))
            members = list(_members(value))
            waiting += [
                (path if key in ("_parameters", "_buffers", "_modules") else (*path, key), member)
                for key, member in reversed(members)
            ]
    return found


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Unknown):
        yield from _members(value.items)
        if isinstance(value.state, dict):
            yield from _members(value.state)
    elif isinstance(value, dict):
        yield from ((str(key), member) for key, member in value.items() if isinstance(key, str | int))
    else:
        yield from ((str(index), member) for index, member in enumerate(value))


def unpickle(stream: IO[bytes]) -> tuple[Any, dict[str, Storage]]:
    """Interpret the next pickle of `stream`.

    Args:
        stream: positioned at the start of the pickle, and left behind its end.

    Returns:
        what the pickle describes, and the storages it mentions by key.

    Raises:
        CheckpointError: it is damaged or hostile.
    """
    interpreter = TensorUnpickler(stream)
    try:
        return interpreter.load(), interpreter.storages
    except CheckpointError:
        raise
    except UNPICKLING_ERRORS as error:
        raise CheckpointError("is a damaged or truncated PyTorch checkpoint; download or copy it again") from error
