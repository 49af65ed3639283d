"""Fixtures for everybody: real servers on free ports, with a fake engine. Marks and seeds each test.

Marks come from what a test asks for and where it lies, not by hand: `MARKS_BY_FIXTURE`, `MARKS_BY_FOLDER` and
`FOLDER_OF_KERNELS`. Only `slow` is set by hand, to what was measured. `./run_tests.sh --quick` leaves out what carries
one of them.
"""

import atexit
import dataclasses
import functools
import gc
import importlib.util
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from tests.support import zygote
from tests.support.forked_workers import ForkedWorkers, import_tests
from tests.support.serving import RunningServer

MARKS_BY_FIXTURE = {
    "browser": "browser",
    "server": "server",
    "api_server": "server",
    "start_server": "server",
    "closed_server": "server",
    "server_below": "server",
    "proxy": "server",
    "pool": "process",
    "process": "process",
    "started": "process",
}
MARKS_BY_FOLDER = {"app": "process", "examples": "process", "faults": "process"}
FOLDER_OF_KERNELS = "kernels"
OBJECTS_BEFORE_A_LOOK = 50_000  # made and not freed, before garbage is looked for; Python's own is 700 or 2000
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# The same examples in every run, and no limit on how long one takes: other people's machines are busy too.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as `detection/` does; tests import onnxruntime themselves


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by what it needs; skip the kernels' tests where neither a card nor the interpreter is.

    A name that is another in each process is refused: workers could not share the tests.
    """
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid}: this name has an address in it; give its parameters ids")
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in MARKS_BY_FIXTURE:
                item.add_marker(MARKS_BY_FIXTURE[fixture])
        if item.path.parent.name in MARKS_BY_FOLDER:
            item.add_marker(MARKS_BY_FOLDER[item.path.parent.name])
        if FOLDER_OF_KERNELS in item.path.parent.parts:
            _mark_kernel_test(item)


def _mark_kernel_test(item: pytest.Item) -> None:
    import torch  # here, because it takes seconds and not every run needs it

    item.add_marker("gpu" if torch.cuda.is_available() else "interpreter")
    if importlib.util.find_spec("triton") is None:
        item.add_marker(pytest.mark.skip(reason="Triton is not installed"))
    elif not torch.cuda.is_available() and not INTERPRETED:
        item.add_marker(pytest.mark.skip(reason="no CUDA device; TRITON_INTERPRET=1 runs this in Triton's interpreter"))


@pytest.fixture(scope="session", autouse=INTERPRETED)
def interpreter_without_overflow_checks() -> None:
    """Leave out what takes half of the interpreter's time: every integer operation done again in 64 bits.

    It finds indices past 2^31, which maps of some thousand pixels cannot have.
    """
    from triton.runtime import interpreter

    builder = interpreter.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)


@pytest.fixture(scope="session", autouse=INTERPRETED)
def interpreter_that_patches_once() -> None:
    """Leave out what takes another fifth: a function that a kernel calls has Triton's language patched again.

    The kernel has done that, and undoes it at its end.
    """
    from triton import language
    from triton.runtime import interpreter

    patch = interpreter._patch_lang

    def patch_once(function: Callable[..., Any]) -> object:
        seen = [one for one in function.__globals__.values() if one is language or one is language.core]
        if any(language.core.is_builtin(name) for one in seen for name in (one.arange, one.tensor.__add__)):
            return patch(function)
        return interpreter._LangPatchScope()

    interpreter._patch_lang = patch_once


@pytest.fixture(scope="session", autouse=INTERPRETED)
def interpreter_that_knows_its_types() -> None:
    """Leave out what takes another quarter: the shape of each result is checked, named and wrapped anew.

    It happens for every operation of every program, on the few shapes that a kernel has.
    """
    from triton.language import core
    from triton.runtime import interpreter

    make_block, make_tensor = core.block_type.__init__, core.tensor.__init__
    blocks: dict[object, dict[str, object]] = {}
    tensors: dict[object, dict[str, object]] = {}

    def make_block_once(self: Any, element_ty: Any, shape: Any) -> None:
        key = (id(element_ty), *(size.value if isinstance(size, core.constexpr) else size for size in shape))
        if key not in blocks:
            make_block(self, element_ty, shape)
            blocks[key] = dict(vars(self))  # with element_ty, so that no other one gets its id
        vars(self).update(blocks[key])

    def make_tensor_once(self: Any, handle: Any, type: Any) -> None:
        key = tuple(type.shape) if type.is_block() else ()
        if key not in tensors:
            make_tensor(self, handle, type)
            tensors[key] = {"shape": self.shape, "numel": self.numel}
        vars(self).update(tensors[key], handle=handle, type=type, dtype=type.scalar)

    core.block_type.__init__, core.tensor.__init__ = make_block_once, make_tensor_once
    pointers_type, scalars_type = interpreter._get_np_dtype, functools.cache(interpreter._get_np_dtype)
    interpreter._get_np_dtype = lambda type: (pointers_type if type.scalar.is_ptr() else scalars_type)(type.scalar)


@pytest.fixture(scope="session", autouse=importlib.util.find_spec("argon2") is not None and not INTERPRETED)
def passwords_that_are_hashed_quickly() -> None:
    """Leave out what makes passwords hard to guess: a fifth of a second for each."""
    from tests.support.quick_passwords import hash_quickly

    hash_quickly()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect without looking for garbage, leave what was collected out of all later looks, and look seldom then.

    As often as Python looks by itself, it took an eighth of the time of the kernels' tests.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        gc.set_threshold(OBJECTS_BEFORE_A_LOOK)
        atexit.register(gc.unfreeze)  # or libraries that look whether all of theirs is gone find what is not


def pytest_configure(config: pytest.Config) -> None:
    """Let a worker end without taking its libraries apart, which takes two seconds; its exit status says nothing."""
    if hasattr(config, "workerinput"):
        atexit.register(os._exit, 0)  # what is registered later is done before


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[Any]) -> None:
    """Have the workers share what forks servers, and be forked themselves by a process that has imported all tests.

    Where some files alone are asked for, each worker imports those.
    """
    if zygote.CAN_FORK:
        if config.args_source is pytest.Config.ArgsSource.TESTPATHS:
            files = sorted(Path(__file__).parent.rglob("test_*.py"))
            workers = ForkedWorkers(functools.partial(import_tests, files, config.rootpath))
            config.add_cleanup(workers.close)
            for spec in specs:
                spec.python = workers.command
        zygote.share()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed every random generator, so that a test sees the same numbers alone, in any order and on any worker."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:  # importing it takes seconds
        seed_torch(sys.modules["torch"])


def seed_torch(torch: Any) -> None:
    """Seed PyTorch's generators; where there is no card, it would note the whole stack for the day there is one."""
    if torch.cuda.is_available():
        torch.manual_seed(0)
    else:
        torch.default_generator.manual_seed(0)


def pytest_unconfigure() -> None:
    """End what was asked of the process that forks servers, and in the process that started it, that one."""
    zygote.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with page and fake engine, shared by all tests: `.url`, `.data_dir`, `.outputs_dir`."""
    running = RunningServer(tmp_path_factory.mktemp("server"), kind="page").start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server without page, with fake engine and small limits (2 MiB, 2 million pixels), shared by all tests."""
    settings = {"max_file_mib": 2, "max_image_mpx": 2}
    running = RunningServer(tmp_path_factory.mktemp("api-server"), settings=settings).start()
    yield running
    running.stop()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
    """Start servers of one test: `start_server(kind="api", queue_limit=2, ...)`; all are killed at its end."""
    started: list[RunningServer] = []

    def start(kind: str = "api", *, environment: dict[str, str] | None = None, **settings: Any) -> RunningServer:
        folder = tmp_path / f"server-{len(started)}"
        running = RunningServer(folder, kind=kind, settings=settings, environment=environment or {})
        started.append(running)
        return running.start()

    yield start
    for running in started:
        running.kill()
