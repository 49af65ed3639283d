"""How long a process takes until its first repair can begin, and where that time goes."""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# (module, attribute, how the step is named): what a start calls, each timed where it is looked up.
STEPS = (
    ("inference", "choose_placement", "device and profile chosen, the card's first use"),
    ("inference", "load_generator", "weights read"),
    ("inference", "_load_crisp", "the crisp network's weights made"),
    ("lama.fast_generator", "fold_generator", "batch-norms folded"),
    ("lama.fast_generator", "_triton_backend", "weights in the kernels' forms, kernels tried"),
    ("engine.cuda_graphs", "GraphedModel.capture", "graphs captured"),
    ("inference", "Inpainter._repair_dummy", "rehearsals"),
)


LIBRARY = """
import time
begun_s = time.time()
import torch
import_s = round(time.time() - begun_s, 2)
from inference import Inpainter
inpainter = Inpainter.load({weights!r})
"""
PROGRAM = """
import time
import_s = None
from app import load_engine
from config import load_settings
inpainter = load_engine(load_settings({{"weights": {weights!r} or ""}}))
"""
# Bytecode is there, as `start_app.sh` and the container have it. Else each start compiles PyTorch's sources and ours.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
READY = """
ready_s = time.time()
inpainter.wait_until_warm()
warm_s = time.time()
import json
print(json.dumps([import_s, ready_s, warm_s, inpainter.describe()]))
"""


def start_rows(weights: str | None, *, starts: int = 7) -> list[dict[str, Any]]:
    """Time processes until their first repair can begin: as a library loads, and as the program's commands do."""
    rows = [
        {"way": way, **_start_row(code.format(weights=weights) + READY, starts)}
        for way, code in (("library", LIBRARY), ("program", PROGRAM))
    ]
    for row in rows:
        print(row, flush=True)
    return rows


def _start_row(code: str, starts: int) -> dict[str, Any]:
    """Time from process start to ready, the first, then with caches warm, and to all sizes being prepared.

    How much of it importing PyTorch takes, each process tells too.
    """
    imports, readies, prepared, says = [], [], [], {}
    for _ in range(starts):
        started = time.time()
        child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
        if child.returncode:
            return {"message": child.stderr[-500:]}
        import_s, ready_s, warm_s, says = json.loads(child.stdout.splitlines()[-1])
        imports.append(import_s)
        prepared.append(round(warm_s - started, 2))
        readies.append(round(ready_s - started, 2))
    return {
        "first_s": readies[0],
        "warm_s": statistics.median(readies[1:]),
        "warm_each_s": readies[1:],
        "of_it_import_torch_s": imports[1:],
        "all_sizes_s": statistics.median(prepared[1:]),
        "says": says,
    }


def app_row(*, starts: int = 7) -> dict[str, Any]:
    """Time from starting `app.py` to the line that says it is ready, page and engine: wall clock and processor."""
    walls, processor = [], []
    for _ in range(starts):
        with tempfile.TemporaryDirectory() as folder:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            command = [
                sys.executable,
                "app.py",
                f"--port={port}",
                f"--data-dir={folder}/data",
                f"--outputs-dir={folder}/out",
            ]
            started = time.perf_counter()
            child = subprocess.Popen(
                command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            assert child.stdout is not None
            said = []
            for line in child.stdout:
                said.append(line)
                if "is ready at" in line:
                    walls.append(round(time.perf_counter() - started, 2))
                    times = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
                    processor.append((int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK"))
                    break
            child.terminate()
            child.communicate()
            if not any("is ready at" in line for line in said):
                return {"message": "".join(said)[-500:]}
    row = {
        "app_first_s": walls[0],
        "app_s": statistics.median(walls[1:]),
        "app_each_s": walls[1:],
        "app_processor_s": statistics.median(processor[1:]),
    }
    print(row, flush=True)
    return row


def step_rows(weights: str | None, *, starts: int = 5) -> list[dict[str, Any]]:
    """Time the steps of a start in processes of their own, caches warm: medians, how often each step runs, the whole.

    Steps that call others include them. "Modules" are those that importing PyTorch, and then ours, takes.
    """
    code = f"""
import json, sys, threading, time
began = time.perf_counter()
import torch
torch_s = time.perf_counter() - began
began = time.perf_counter()
import inference
ours_s = time.perf_counter() - began
import importlib
steps = {{"import torch": [1, torch_s], "import our modules": [1, ours_s]}}
def timed(function, name):
    def call(*args, **kwargs):
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            if threading.current_thread() is threading.main_thread():  # what is prepared afterwards is no start
                step = steps.setdefault(name, [0, 0.0])
                step[0] += 1
                step[1] += time.perf_counter() - began
    return call
for module, attribute, name in {STEPS!r}:
    owner = importlib.import_module(module)
    *outer, attribute = attribute.split(".")
    for part in outer:
        owner = getattr(owner, part)
    setattr(owner, attribute, timed(getattr(owner, attribute), name))
timed(lambda: inference.Inpainter.load({weights!r}), "Inpainter.load, all of it")()
print(json.dumps(steps))
"""
    found: dict[str, list[list[float]]] = {}
    for _ in range(starts):
        child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
        if child.returncode:
            return [{"message": child.stderr[-500:]}]
        for name, step in json.loads(child.stdout.splitlines()[-1]).items():
            found.setdefault(name, []).append(step)
    rows: list[dict[str, Any]] = [
        {"step": name, "times": each[0][0], "s": statistics.median(s for _, s in each)} for name, each in found.items()
    ]
    for row in rows:
        print(row, flush=True)
    return rows
