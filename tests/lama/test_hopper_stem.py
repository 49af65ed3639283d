"""The stem for Hopper: its operands, addresses, barriers and plans without a card, the kernel on one."""

import math
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lama.fold_batchnorm import Convolution

pytest.importorskip("triton")

from lama.kernels import hopper_stem
from lama.kernels.cuda_kernel import compiled
from lama.kernels.hopper_pieces import in_registers
from lama.kernels.hopper_stem import (
    GROUPS,
    LINE_BYTES,
    PIXELS,
    PLANS,
    THREADS,
    HopperStem,
    StemPlan,
    stem_rows,
)
from lama.kernels.stem_head import convolve_stem_reference, pad_input_reference, stem_weights
from tests.support.cuda_compiler import skip_without_compiler

CPU = torch.device("cpu")
STEPS, PAIRS, PAIR_BYTES, ROW_BYTES = 14, 64, 16, 128
RESULT_BYTES = PAIRS * ROW_BYTES
PATIENCE = 2_000_000
on_hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="needs a Hopper card"
)


def random_stem(outputs: int) -> Convolution:
    seed = torch.Generator().manual_seed(outputs)
    weight = torch.randn(outputs, 4, 7, 7, generator=seed, dtype=torch.float64) * 196**-0.5
    return Convolution(weight, torch.randn(outputs, generator=seed).double())


def padded_input(batch: int, height: int, width: int) -> Tensor:
    """(B, H + 6, W + 8, 4) float16, the last two columns large."""
    seed = torch.Generator().manual_seed(height + width)
    padded = torch.empty(batch, height + 6, width + 8, 4)
    pad_input_reference(torch.randn(batch, 4, height, width, generator=seed), padded)
    padded[:, :, -2:] = 1e4
    return padded.half()


def definition(padded: Tensor, stem: Convolution) -> Tensor:
    """(B, H, W, O) float64, with the weights as float16."""
    batch, height, width, _ = padded.shape
    out = torch.empty(batch, height - 6, width - 8, stem.bias.numel(), dtype=torch.float64)
    convolve_stem_reference(padded.double(), stem_weights(stem, CPU), out)
    return out


def spoilt_input() -> Tensor:
    """(1, 22, 264, 4) float16 with a number that is none and an infinite one."""
    padded = padded_input(1, 16, 256)
    padded[0, 15, 137, 2], padded[0, 6, 52, 0] = math.nan, math.inf
    return padded


def check_spoilt(out: Tensor) -> None:
    """See what became of `spoilt_input`: (1, 16, 256, O)."""
    seen = out[0].isnan()
    assert seen[9:16, 131:138].all()
    assert not out[0, :7, 46:53].isfinite().all()
    seen[9:16, 130:138] = False  # the even pixel 130 has it under a weight of zero
    seen[:7, 46:54] = False  # so has the odd pixel 53
    assert not seen.any()


class Barrier:
    """An mbarrier."""

    def __init__(self, count: int) -> None:
        self.count = self.left = count
        self.missing_bytes = self.phase = 0

    def arrive(self, expected_bytes: int = 0) -> None:
        assert self.left > 0, "more arrived than are counted"
        self.left -= 1
        self.complete(-expected_bytes)

    def complete(self, count: int) -> None:
        self.missing_bytes -= count
        if self.left == self.missing_bytes == 0:
            self.phase, self.left = self.phase + 1, self.count

    def waits(self, parity: int) -> bool:
        return self.phase % 2 == parity


class Place:
    """`Place` of the kernel."""

    def __init__(self, line: int, share: int, card: "Card") -> None:
        self.card = card
        strip = line // card.height
        self.column, self.y = strip % card.columns, line % card.height
        self.row = strip // card.columns * card.height + self.y
        self.first = line - share + 6 * (strip - share // card.height)

    def go_on(self) -> None:
        at_once, card = self.card.at_once, self.card
        self.first, self.row, self.y = self.first + at_once, self.row + at_once, self.y + at_once
        if self.y >= card.height:
            self.y, self.first, self.column = self.y - card.height, self.first + 6, self.column + 1
            if self.column == card.columns:
                self.column = 0
            else:
                self.row -= card.height


class Card:
    """Runs the kernel as a card does: groups of warps and copies in any order, every byte at its address.

    What one thread does for its group its coroutine does; a `yield` lets others go on.
    """

    def __init__(self, plan: StemPlan, padded: Tensor, weights: Tensor, bias: Tensor, seed: int) -> None:
        self.plan, self.random = plan, random.Random(seed)
        self.padded = padded.numpy().view(np.uint8).reshape(-1)
        self.bias = bias.double().numpy()
        self.at_once, self.parities = GROUPS // plan.parities, plan.parities
        self.turns, self.turns_behind = plan.lines // self.at_once, 8 // self.at_once
        self.lines_at = GROUPS * plan.buffers * RESULT_BYTES
        self.rows = [self._operand(part) for part in weights.double().numpy()]

    @staticmethod
    def _operand(registers: np.ndarray) -> np.ndarray:
        """(64, 224) from (step, thread, half): which number of the operand a thread has where."""
        matrix = np.full((64, 16 * STEPS), np.nan)
        for thread in range(128):
            row, pair = thread // 32 * 16 + thread % 32 // 4, thread % 4
            for register, (below, further) in enumerate(((0, 0), (8, 0), (0, 8), (8, 8))):
                for half in (0, 1):
                    numbers = registers[:, thread, 2 * register + half]
                    matrix[row + below, 2 * pair + further + half :: 16] = numbers
        return matrix

    def launch(
        self, blocks: int, threads: int, values: tuple[Any, ...], _types: tuple[Any, ...], *, early: bool
    ) -> None:
        assert threads == THREADS
        (out, *self.box), _, _, _, self.height, self.columns, self.lines = values
        self.out = out
        for program in range(blocks):
            self._run(program, blocks)

    def _run(self, program: int, programs: int) -> None:
        share, end = self.lines * program // programs, self.lines * (program + 1) // programs
        self.memory = np.full(self.plan.shared_bytes, 0xFF, np.uint8)  # NaN
        self.line_there = [Barrier(1) for _ in range(self.plan.lines)]
        self.turn_done = [Barrier(GROUPS) for _ in range(self.turns)]
        self.under_way: list[Any] = []  # copies of either direction
        groups = [self._group(group, share, end) for group in range(GROUPS)]
        running: list[Iterator[None]] = list(groups)
        for step in range(PATIENCE):
            if not running and not self.under_way:
                return
            if step % 300 == 0:  # who is fast now
                weights = [self.random.choice((1, 30)) for _ in range(GROUPS)]
                copies_weight = self.random.choice((0.02, 1, 30))
            chances = [*weights[: len(running)], *[copies_weight] * len(self.under_way)]
            (n,) = self.random.choices(range(len(chances)), chances)
            if n >= len(running):
                self.under_way.pop(n - len(running))()
            elif next(running[n], "done") == "done":
                running.pop(n)
        pytest.fail("the program does not end")

    def _copy_lines(self, stream: SimpleNamespace, turn: int, first: int) -> Iterator[None]:
        pitch = (self.columns * PIXELS + 8) * 8
        turn_lines = self.at_once - 1 + 6 + 7
        while stream.next < stream.end:
            is_short, is_full = stream.next < first + turn_lines, stream.next >= stream.used + self.plan.lines
            if is_full and not is_short and stream.turns + self.turns_behind >= turn:
                return
            if is_full:
                assert stream.turns < turn
                barrier = self.turn_done[stream.turns % self.turns]
                while barrier.waits(stream.turns // self.turns % 2):
                    yield
                stream.turns, stream.used = stream.turns + 1, stream.used + self.at_once
                stream.y += self.at_once
                if stream.y >= self.height:
                    stream.y, stream.used = stream.y - self.height, stream.used + 6
                continue
            self._copy_line(stream.next % self.plan.lines, stream.source)
            stream.next, stream.source, stream.rest = stream.next + 1, stream.source + pitch, stream.rest - 1
            if stream.rest == 0:
                stream.rest, stream.column = self.height + 6, stream.column + 1
                if stream.column == self.columns:
                    stream.column = 0
                    stream.source -= (self.columns - 1) * PIXELS * 8
                else:
                    stream.source -= stream.rest * pitch - PIXELS * 8

    def _copy_line(self, slot: int, source: int) -> None:
        target = self.memory[self.lines_at + slot * LINE_BYTES :][:LINE_BYTES]
        assert source % 16 == 0 and 0 <= source <= self.padded.size - LINE_BYTES
        target[:] = 0xFF
        self.line_there[slot].arrive(LINE_BYTES)

        def land() -> None:
            target[:] = self.padded[source : source + LINE_BYTES]
            self.line_there[slot].complete(LINE_BYTES)

        self.under_way.append(land)

    def _pairs(self, descriptor: int) -> np.ndarray:
        """(16, 64): the second operand as wgmma reads it through its descriptor, terms inside, units not exchanged."""
        assert descriptor >> 46 == 0
        start, leading, stride = ((descriptor >> shift & 0x3FFF) << 4 for shift in (0, 16, 32))
        k, n = np.arange(16)[:, None], np.arange(64)[None, :]
        at = start + n // 8 * stride + k // 8 * leading + n % 8 * 16 + k % 8 * 2
        return self.memory.view(np.float16)[at // 2].astype(np.float64)

    def _group(self, group: int, share: int, end: int) -> Iterator[None]:
        plan, parity = self.plan, group % self.parities
        if group == 0:
            start, last = Place(share, share, self), Place(end - 1, share, self)
            line = start.row // self.height * (self.height + 6) + start.y
            stream = SimpleNamespace(
                source=(line * (self.columns * PIXELS + 8) + start.column * PIXELS) * 8,
                next=0,
                end=last.first + 7,
                rest=self.height + 6 - start.y,
                column=start.column,
                turns=0,
                used=0,
                y=start.y,
            )
            yield from self._copy_lines(stream, 0, 0)
        own_results = group * plan.buffers * RESULT_BYTES
        line, seen, turn, copies = share + group // self.parities, 0, 0, list[list[bool]]()
        place = Place(line, share, self)
        while line < end:
            if group == 0 and turn > 0:
                yield from self._copy_lines(stream, turn, place.first)
            seen = max(seen, place.first)
            while seen < place.first + 7:
                while self.line_there[seen % plan.lines].waits(seen // plan.lines % 2):
                    yield
                seen += 1
            units = [self.lines_at // 16 + (place.first + tap) % plan.lines * (LINE_BYTES // 16) for tap in range(7)]
            fixed = (PAIR_BYTES >> 4) << 16 | (8 * PAIR_BYTES >> 4) << 32
            terms = [self._pairs(unit | fixed) for first in units for unit in (first, first + 2)]
            sums = self.rows[parity] @ np.concatenate(terms) + self.bias[:, None]
            slots = [self.memory[16 * unit :][:LINE_BYTES] for unit in units]
            before = [slot.copy() for slot in slots]
            yield  # products take their time
            assert all(map(np.array_equal, slots, before)), "a slot was free too early"
            self.turn_done[turn % self.turns].arrive()
            buffer = own_results + turn % plan.buffers * RESULT_BYTES
            self._store_results(sums.clip(0).astype(np.float16), buffer, own_results)
            yield
            while any(sum(copy) == 0 for copy in copies[: len(copies) - (plan.buffers - 2)]):
                yield
            copies.append([False])
            self._copy_out(buffer, parity, (place.row * self.columns + place.column) * PAIRS, copies[-1])
            line += self.at_once
            turn += 1
            place.go_on()

    def _store_results(self, sums: np.ndarray, buffer: int, own_results: int) -> None:
        """Every warp's `stmatrix`, four matrices at a time, transposed."""
        memory = self.memory.view(np.float16)
        for warp in range(4):
            addresses = [
                own_results
                + (lane // 16 * 8 + lane % 8) * ROW_BYTES
                + ((2 * warp + lane // 8 % 2) ^ (lane % 8)) * 16
                + buffer
                - own_results
                for lane in range(32)
            ]
            for i in range(0, 8, 2):
                for lane in range(32):
                    row, column = 16 * warp + lane // 4, 8 * i + 2 * (lane % 4)
                    two = [sums[row + e // 2 % 2 * 8, column + e // 4 * 8 + e % 2] for e in range(8)]
                    for matrix in range(4):
                        for half in (0, 1):
                            target = addresses[8 * matrix + 2 * (lane % 4) + half] + i * 8 * ROW_BYTES
                            memory[target // 2 + lane // 4] = two[2 * matrix + half]

    def _copy_out(self, buffer: int, parity: int, pair: int, state: list[bool]) -> None:
        sizes, strides, box = self.box
        assert box == (64, 1, PAIRS) and buffer % 1024 == 0
        source = self.memory[buffer : buffer + RESULT_BYTES].view(np.float16)
        before = source.tobytes()

        def leave() -> None:
            assert source.tobytes() == before, "a buffer was written too early"
            address = np.arange(RESULT_BYTES // 2) * 2
            box_there = source[(address ^ (address >> 7 & 7) << 4) // 2].reshape(PAIRS, 64)
            for n in range(PAIRS):
                assert parity < sizes[1] and pair + n < sizes[2]
                first = parity * strides[0] + (pair + n) * strides[1]
                assert np.isnan(self.out[first : first + sizes[0]]).all(), "written twice"
                self.out[first : first + sizes[0]] = box_there[n]
            state[0] = True

        self.under_way.append(leave)


def emulated(padded: Tensor, stem: Convolution, programs: int, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """What `Card` computes: (B, H, W, O) float16."""
    batch, height, width, _ = padded.shape
    out = torch.full((batch, height - 6, width - 8, stem.bias.numel()), math.nan, dtype=torch.float16)
    form = HopperStem(stem, CPU, programs=programs)
    assert form.takes(out)
    card = Card(form.plan, padded, form._weights, form._bias, seed=height)
    monkeypatch.setattr(
        hopper_stem, "tensor_map", lambda values, *boxes, row_bytes: (values.numpy().reshape(-1), *boxes)
    )
    monkeypatch.setattr(hopper_stem, "loaded", lambda *_: card)
    form.convolve(padded, out)
    return out


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("outputs", [32, 64])
def test_what_is_not_finite_stays_near(outputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check_spoilt(emulated(spoilt_input(), random_stem(outputs), 5, monkeypatch))


@pytest.mark.parametrize("outputs", [32, 64])
@pytest.mark.parametrize(
    ("batch", "height", "width", "programs"),
    [(1, 4, 128, 132), (2, 25, 256, 3), (2, 5, 384, 2), (1, 70, 128, 1), (3, 7, 256, 100)],
)
def test_addresses_and_barriers_give_the_definition(
    outputs: int, batch: int, height: int, width: int, programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's formulas in another order of events each time, in float64 but for its result."""
    stem, padded = random_stem(outputs), padded_input(batch, height, width)
    out = emulated(padded, stem, programs, monkeypatch)
    expected = definition(padded, stem)
    assert (out.double() - expected).abs().max() < 1e-3 * expected.abs().max()


@pytest.mark.parametrize("outputs", [32, 64])
def test_rows_give_the_definition(outputs: int) -> None:
    """Each pixel of a pair from the eight that both see; registers hold every number of the rows once."""
    stem, padded = random_stem(outputs), padded_input(1, 4, 128).double()
    weight = Convolution(stem.weight.half().double(), stem.bias)
    rows = stem_rows(weight).view(2, outputs, 7, 8, 4)
    windows = padded.unfold(1, 7, 1).unfold(2, 8, 2)[:, :, :64]  # (image, y, pair, channel, line, pixel)
    sums = torch.einsum("byncij,poijc->bynpo", windows, rows).flatten(2, 3) + stem.bias
    assert torch.allclose(sums.relu(), definition(padded, stem), atol=1e-6)  # the bias is float32 there
    numbers = torch.arange(outputs // 32 * 64 * 224).view(-1, 64, 224)
    assert torch.equal(in_registers(numbers).flatten().sort().values, numbers.flatten())


def test_other_sizes_are_not_taken() -> None:
    form = HopperStem(random_stem(32), CPU)
    for height, width, is_taken in ((4, 128, True), (1000, 640, True), (3, 128, False), (64, 192, False)):
        assert form.takes(torch.empty(1, height, width, 32, device="meta")) is is_taken


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_plans_compile_and_fit(plan: StemPlan, tmp_path: Path) -> None:
    """For a card that is not here; that the kernel counts its memory as the plan does, it asserts itself."""
    skip_without_compiler()
    assert plan.shared_bytes <= 227 * 1024
    code = compiled(plan.source, None)
    assert code.startswith(b"\x7fELF")
    triton = pytest.importorskip("triton")
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        pytest.skip("Triton has no cuobjdump here")
    (tmp_path / "stem.cubin").write_bytes(code)
    said = subprocess.run([tool, "-res-usage", tmp_path / "stem.cubin"], capture_output=True, text=True, check=True)
    assert "convolve_stem" in said.stdout and "STACK:0 " in said.stdout  # no register is spilled


def test_other_cards_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    form, obstacle = hopper_stem.hopper_stem(random_stem(32), CPU)
    assert form is None and "no Hopper card" in obstacle
    monkeypatch.setattr(hopper_stem, "why_not_card", lambda _device: "")
    monkeypatch.setattr(hopper_stem, "HopperStem", lambda *_: (_ for _ in ()).throw(ImportError("no cuda")))
    form, obstacle = hopper_stem.hopper_stem(random_stem(32), CPU)
    assert form is None and obstacle == "stem failed in a trial: ImportError: no cuda"
    assert hopper_stem.hopper_stem(random_stem(48), CPU) == (None, "")


@pytest.mark.parametrize("outputs", [32, 64])
def test_a_wrong_kernel_is_not_taken(outputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial, with the definition in the kernel's place, and with a fault in it."""
    stem, fault = random_stem(outputs), 0.0

    def convolve(_self: object, padded: Tensor, out: Tensor) -> None:
        out.copy_(definition(padded, stem))
        out[1, -1, -1] += fault  # one pixel

    monkeypatch.setattr(hopper_stem, "why_not_card", lambda _device: "")
    monkeypatch.setattr(HopperStem, "convolve", convolve)
    form, obstacle = hopper_stem.hopper_stem(stem, CPU)
    assert form is not None and obstacle == ""
    fault = 1.0
    form, obstacle = hopper_stem.hopper_stem(stem, CPU)
    assert form is None and obstacle.startswith("stem differed by")
    fault = math.nan
    form, obstacle = hopper_stem.hopper_stem(stem, CPU)
    assert form is None and obstacle == "stem differed by inf in a trial"


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize("programs", [None, 3])
@pytest.mark.parametrize(
    ("batch", "height", "width"), [(1, 512, 512), (2, 37, 256), (1, 4, 128), (3, 45, 384), (2, 131, 1024)]
)
@pytest.mark.parametrize("outputs", [32, 64])
def test_kernel_computes_the_definition(
    outputs: int, batch: int, height: int, width: int, programs: int | None
) -> None:
    """Shares that end within a column, several images, fewer lines than groups; a race shows in one of several."""
    device, stem = torch.device("cuda"), random_stem(outputs)
    padded = padded_input(batch, height, width)
    expected = definition(padded, stem)
    form = HopperStem(stem, device, programs=programs)
    on_card, first = padded.to(device), None
    for _ in range(5):
        around = torch.full((batch + 2, *expected.shape[1:]), math.nan, dtype=torch.float16, device=device)
        out = around[1:-1]
        form.convolve(on_card, out)
        assert around[[0, -1]].isnan().all()  # nothing was written beside it
        first = out if first is None else first
        assert torch.equal(out, first)
    assert first is not None
    actual = first.cpu().double()
    assert (actual - expected).norm() < 1e-3 * expected.norm()
    assert (actual - expected).abs().max() < 2e-3 * expected.abs().max()


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize("outputs", [32, 64])
def test_kernel_keeps_nan(outputs: int) -> None:
    """Nothing is hidden from the check for finite results; one column more is lost, under a weight of zero."""
    device = torch.device("cuda")
    padded = spoilt_input().to(device)
    out = torch.zeros(1, 16, 256, outputs, dtype=torch.float16, device=device)
    HopperStem(random_stem(outputs), device).convolve(padded, out)
    check_spoilt(out.cpu())


@on_hopper
@pytest.mark.gpu
def test_kernel_runs_in_a_graph() -> None:
    device, stem = torch.device("cuda"), random_stem(64)
    padded = padded_input(2, 64, 256)
    form, obstacle = hopper_stem.hopper_stem(stem, device)
    assert form is not None, obstacle
    on_card, out = torch.zeros_like(padded, device=device), torch.empty(2, 64, 256, 64, device=device).half()
    form.convolve(on_card, out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        form.convolve(on_card, out)
    on_card.copy_(padded)
    graph.replay()
    expected = definition(padded, stem)
    assert (out.cpu().double() - expected).norm() < 1e-3 * expected.norm()
