"""What is done before and while the heavy libraries are imported: it counts for every start and every repair."""

import gc
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from app import SPIN_COUNT, _halve_threads, collecting_later, leave_room, load_engine, share_cores
from config import Settings

ROOT = Path(__file__).resolve().parents[2]
SEEK_STUBS = """
import gc, os, sys
gc.disable()
def seek(event, given):
    if event == "open" and str(given[0]).endswith(".pyi"):
        print("a stub is read", flush=True)
        os._exit(0)  # it goes on with eighty others
sys.addaudithook(seek)
from web.stubs import without_stubs
{how}
    import gradio
print(gradio.HTML("x").value, any(type(finder).__module__ == "web.stubs" for finder in sys.meta_path), flush=True)
os._exit(0)  # to take all of it apart takes Python a second
"""


@pytest.mark.parametrize(
    ("how", "said"),
    [("with without_stubs():", "x False\n"), ("if True:", "a stub is read\n")],
    ids=["inside", "outside"],
)
def test_gradio_leaves_its_stubs_alone_only_inside_the_block(how: str, said: str) -> None:
    """Gradio parses and rewrites 81 type stubs per import, 2 s of the start."""
    code = SEEK_STUBS.format(how=how)
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed == said


def test_threads_that_wait_do_not_spin_unless_somebody_said_how(monkeypatch: pytest.MonkeyPatch) -> None:
    """With another program on one of two cores, spinning threads made a repair six times slower."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    with monkeypatch.context() as scope:
        scope.setenv("OMP_WAIT_POLICY", "active")
        share_cores()
        assert "GOMP_SPINCOUNT" not in os.environ
    with monkeypatch.context() as scope:
        scope.setenv("GOMP_SPINCOUNT", "5")
        share_cores()
        assert os.environ["GOMP_SPINCOUNT"] == "5"
    monkeypatch.setenv("GOMP_SPINCOUNT", "")  # so that it is put back
    monkeypatch.delenv("GOMP_SPINCOUNT")
    share_cores()
    assert 0 < int(os.environ["GOMP_SPINCOUNT"]) <= 10_000


@pytest.mark.parametrize(
    ("device", "threads", "named", "left"),
    [("cuda:1", 16, None, 8), ("cuda:1", 4, None, 4), ("cuda:1", 16, "16", 16), ("cpu", 16, None, 16)],
    ids=["of many", "of few", "as the user says", "without a card"],
)
def test_large_copies_beside_a_card_wait_for_half_of_the_threads(
    device: str, threads: int, named: str | None, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a thread for each of 16 cores, of which others had some, a repair of 2 ms took 12 now and then.

    Each further card of a process halved them again.
    """
    before, caps = torch.get_num_threads(), []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *cap: caps.append(cap))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if named is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", named)
    placement = SimpleNamespace(device=torch.device(device), profile=SimpleNamespace(memory_fraction=0.9))
    try:
        torch.set_num_threads(threads)
        _halve_threads.cache_clear()
        for _ in range(2):
            leave_room(placement)  # type: ignore[arg-type]
        assert torch.get_num_threads() == left
    finally:
        torch.set_num_threads(before)
        _halve_threads.cache_clear()
    assert caps == ([] if device == "cpu" else [(0.9, torch.device("cuda:1"))] * 2)


def test_where_the_card_is_full_the_cpu_computes_with_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of them computed until the next start, as if the card had the rest of the work."""
    before = torch.get_num_threads()
    card = SimpleNamespace(device=torch.device("cuda:0"), profile=SimpleNamespace(memory_fraction=0.9))
    halved: list[int] = []

    def load(_: Settings, *, on_placement: Any) -> Any:
        on_placement(card)
        halved.append(torch.get_num_threads())
        return SimpleNamespace(device="cpu")

    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *_: None)
    monkeypatch.setattr("inference.load_inpainter", load)
    monkeypatch.setattr("app.freeze_loaded_objects", lambda: None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    try:
        torch.set_num_threads(16)
        _halve_threads.cache_clear()
        load_engine(Settings(device="cpu"))
        assert (halved, torch.get_num_threads()) == ([8], 16)
    finally:
        torch.set_num_threads(before)
        _halve_threads.cache_clear()


def test_garbage_is_looked_for_again_after_what_was_imported_or_could_not_be() -> None:
    assert gc.isenabled()
    with pytest.raises(ImportError), collecting_later():
        with collecting_later():
            pass
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    try:
        with collecting_later():
            pass
        assert not gc.isenabled(), "whoever has switched it off keeps it so"
    finally:
        gc.enable()


def test_the_app_says_so_before_torch_is_imported() -> None:
    """libgomp reads the variable once, when it is loaded. And no garbage is looked for meanwhile."""
    code = """
import gc, os, sys
import app
def look(settings):
    print("torch" in sys.modules, os.environ["GOMP_SPINCOUNT"], gc.isenabled())
app.load_engine = look
from config import load_settings
sys.modules["gradio"] = None  # which is imported meanwhile, in a second
try:
    app.create_app(load_settings({}))
except ImportError:
    print(gc.isenabled())
"""
    environment = {name: value for name, value in os.environ.items() if "OMP" not in name}
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert printed.split() == ["False", SPIN_COUNT, "False", "True"]
