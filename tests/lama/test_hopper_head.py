"""The last convolution in one launch: operands, addresses and plans without a card, the kernel on one."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lama.fold_batchnorm import Convolution, fold_generator
from lama.generator import Generator

pytest.importorskip("triton.experimental.gluon")

from lama import triton_backend
from lama.kernels import hopper_head as head_form
from lama.kernels.cuda_kernel import OPTIONS
from lama.kernels.hopper_head import (
    BLOCK_COLUMNS,
    COLOURS,
    LEAST_HEIGHT,
    LEAST_WIDTH,
    PITCH,
    PIXELS,
    PROGRAMS,
    STRIP_PX,
    TAPS,
    HeadPlan,
    HeadProgram,
    HopperHead,
    block_weights,
    head_reference,
    hopper_head,
    plan_for,
    plan_of,
)
from tests.support.cuda_compiler import skip_without_compiler

CPU = torch.device("cpu")
H200 = 132  # multiprocessors
BORDER, MULTIPLIERS, BLOCK_SUMS = 3, 384, 12
on_hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="needs a Hopper card"
)


def random_convolution(inputs: int) -> Convolution:
    random = torch.Generator().manual_seed(inputs)
    weight = torch.randn(COLOURS, inputs, TAPS, TAPS, generator=random, dtype=torch.float64)
    return Convolution(weight * (inputs * TAPS * TAPS) ** -0.5, torch.randn(COLOURS, generator=random).double())


def random_map(batch: int, height: int, width: int, inputs: int) -> Tensor:
    random = torch.Generator().manual_seed(height + width)
    return torch.randn(batch, height, width, inputs, generator=random).half()


class EmulatedKernel:
    """The kernel's addresses and sums, thread by thread: shared memory is bytes, operands are read as wgmma does."""

    def __init__(self, convolution: Convolution, x: Tensor, plan: HeadPlan) -> None:
        self.inputs, self.x, self.plan = x.shape[3], x.numpy(), plan
        self.slots = PROGRAMS[self.inputs].slots
        self.pixel_bytes = 2 * self.inputs
        self.slot_bytes, self.block_bytes = PIXELS * self.pixel_bytes, BLOCK_COLUMNS * self.pixel_bytes
        self.weights_at = self.slots * self.slot_bytes
        weights = block_weights(convolution)
        self.memory = np.zeros(self.weights_at + weights.numel() * 2, dtype=np.uint8)
        self.memory[self.weights_at :] = np.frombuffer(weights.numpy().tobytes(), dtype=np.uint8)
        self.finished = np.full((2, BLOCK_COLUMNS * PITCH), math.nan)
        self.bias = convolution.bias.numpy()
        batch, height, width, _ = x.shape
        self.out = np.full((batch, COLOURS, height, width), math.nan)
        thread = np.arange(MULTIPLIERS)
        lane = thread % 32
        self.pixel, self.pair = thread // 32 * 16 + lane // 4, lane % 4

    def exchange(self, address: int) -> int:
        return address ^ (address >> 7 & (7 if self.pixel_bytes == 128 else 3)) << 4

    def copy_pixels(self, slot: int, first: int, image: int, row: int) -> None:
        """As the copy engine: a pixel after the other, zeros beside the map, units exchanged by their address."""
        for p in range(PIXELS):
            x = first + p
            inside = 0 <= x < self.x.shape[2]
            numbers = self.x[image, row, x] if inside else np.zeros(self.inputs, dtype=np.float16)
            for unit in range(self.inputs // 8):
                address = self.exchange(slot * self.slot_bytes + p * self.pixel_bytes + 16 * unit)
                self.memory[address : address + 16] = numbers[8 * unit : 8 * unit + 8].view(np.uint8)

    def operand(self, address: int) -> int:
        """The descriptor of the kernel."""
        mode = 1 if self.pixel_bytes == 128 else 2
        return address >> 4 | 1 << 16 | (8 * self.pixel_bytes >> 4) << 32 | mode << 62

    def read(self, descriptor: int, rows: int) -> np.ndarray:
        """(rows, 16) as the card reads an operand whose rows are its terms'."""
        start, stride, mode = (descriptor & 0x3FFF) << 4, (descriptor >> 32 & 0x3FFF) << 4, descriptor >> 62
        pitch, bits = {1: (128, 7), 2: (64, 3)}[mode]
        address = start + np.arange(rows)[:, None] // 8 * stride + np.arange(rows)[:, None] % 8 * pitch
        address = address + np.array([0, 16])[None, :]
        address = address ^ (address >> 7 & bits) << 4
        read = self.memory[address[:, :, None] + np.arange(16)].reshape(rows, 32)
        return np.ascontiguousarray(read).view(np.float16).astype(np.float64)

    def begin_row(self, turn: int, slot: int, sums: np.ndarray) -> None:
        register = np.arange(len(sums))[:, None]
        i, below, odd = register // 4, register // 2 % 2, register % 2
        for group in range(3):
            t = np.arange(128 * group, 128 * group + 128)
            row, column = t % 128 // 32 * 16 + t % 32 // 4 + 8 * below, 8 * i + 2 * (t % 4) + odd
            a = slot * self.slot_bytes + group * 64 * self.pixel_bytes
            b = self.weights_at + (TAPS - 1 - turn) * self.block_bytes
            for step in range(0, self.pixel_bytes, 32):
                product = self.read(self.operand(a + step), 64) @ self.read(self.operand(b + step), 168).T
                sums[:, t] += product[row, column]  # (register, thread)

    def place(self, left: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the threads' two pixels' sums go, and where once more, in numbers, or -1: (2, thread) each."""
        width = self.x.shape[2]
        position = self.pixel[None, :] + np.array([[0], [8]])
        x, columns = left - BORDER + position, 2 * self.pair * PITCH
        own = columns + np.where((x >= 0) & (x < width), position, PIXELS)
        mirror = np.where((x >= 1) & (x <= BORDER), -x - (left - BORDER), -1)
        at_right = (x >= width - 1 - BORDER) & (x <= width - 2)
        mirror = np.where(at_right, 2 * (width - 1) - x - (left - BORDER), mirror)
        return own, np.where((mirror >= 0) & (mirror < PIXELS), columns + mirror, -1)

    def finish_row(self, block: np.ndarray, buffer: int, image: int, left: int, y: int) -> None:
        memory, (own, mirrored) = self.finished[buffer], self.place(left)
        memory.fill(math.nan)  # what is read was written for this row
        for below in range(2):
            for place in (own[below], mirrored[below]):
                for i in range(3):
                    for odd in range(2):
                        stores = place >= 0
                        memory[(place + (8 * i + odd) * PITCH)[stores]] = block[4 * i + 2 * below + odd][stores]
        width = self.x.shape[2]
        for output in range(COLOURS * STRIP_PX):
            colour, x = output // STRIP_PX, left + output % STRIP_PX
            if x >= width:
                continue
            first = output // STRIP_PX * PITCH + output % STRIP_PX
            total = self.bias[colour] + sum(memory[first + tap * (COLOURS * PITCH + 1)] for tap in range(TAPS))
            assert math.isnan(self.out[image, colour, y, x])  # written once
            self.out[image, colour, y, x] = 1 / (1 + math.exp(-total))

    def run(self, program: int) -> None:
        _, height, _, _ = self.x.shape
        sums = np.full((TAPS * BLOCK_SUMS, MULTIPLIERS), 1e3)  # what nobody may see
        sums[:BLOCK_SUMS] = 0
        slot, turn, buffer = 0, 0, 0
        for number in range(program, self.plan.tasks, self.plan.programs):
            chunk = number // self.plan.strips % self.plan.chunks
            top, left = chunk * self.plan.rows, number % self.plan.strips * STRIP_PX
            image, rows = number // self.plan.strips // self.plan.chunks, min(self.plan.rows, height - top)
            for step in range(rows + 6):
                y = top - BORDER + step
                self.copy_pixels(slot, left - BORDER, image, -y if y < 0 else y if y < height else 2 * (height - 1) - y)
                self.begin_row(turn, slot, sums)
                block = (turn + 1) % TAPS
                registers = slice(block * BLOCK_SUMS, (block + 1) * BLOCK_SUMS)
                finished = sums[registers].copy()
                sums[registers] = 0
                if step >= 6:
                    self.finish_row(finished, buffer, image, left, top + step - 6)
                    buffer ^= 1
                slot, turn = (slot + 1) % self.slots, (turn + 1) % TAPS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inputs", "height", "width", "rows", "programs"),
    [
        (32, 5, 8, 5, 1),  # every pixel is reflected but two
        (64, 4, 187, 2, 2),  # a second strip of one pixel, two tasks for each program
        (32, 4, 189, 4, 1),
        (64, 9, 33, 9, 1),
    ],
)
def test_addresses_give_the_definition(inputs: int, height: int, width: int, rows: int, programs: int) -> None:
    """From the weights' layout and the copy engine's to the image, in float64."""
    convolution, x = random_convolution(inputs), random_map(1, height, width, inputs)
    plan = plan_of(1, height, width, programs, rows=rows)
    kernel = EmulatedKernel(convolution, x, plan)
    for program in range(plan.programs):
        kernel.run(program)
    expected = head_reference(x.double(), convolution).numpy()
    assert np.abs(kernel.out - expected).max() < 1e-6


@pytest.mark.parametrize("width", [8, 9, 185, 186, 187, 188, 189, 190, 372, 373, 512, 1024])
def test_each_output_finds_its_pixels_in_its_strip(width: int) -> None:
    """What an output adds lies where the pixel that reflection gives stored it, and nothing else was stored there."""
    for strip in range(-(-width // STRIP_PX)):
        left = strip * STRIP_PX
        kernel = EmulatedKernel(
            random_convolution(32), torch.zeros(1, 4, width, 32).half(), plan_of(1, 4, width, 1, rows=4)
        )
        own, mirrored = kernel.place(left)
        pixels = left - BORDER + (kernel.pixel[None, :] + np.array([[0], [8]]))
        stored: dict[int, int] = {}
        for place in (own, mirrored):
            for below, thread in zip(*np.nonzero(place >= 0), strict=True):
                if kernel.pair[thread] == 0 and place[below, thread] != PIXELS:
                    assert place[below, thread] not in stored
                    stored[int(place[below, thread])] = int(pixels[below, thread])
        for x in range(left, min(left + STRIP_PX, width)):
            for tap in range(TAPS):
                source = abs(x + tap - BORDER)
                source = source if source < width else 2 * (width - 1) - source
                assert stored[x - left + tap] == source


def test_a_warps_stores_meet_no_bank_twice() -> None:
    kernel = EmulatedKernel(random_convolution(32), torch.zeros(1, 4, 512, 32).half(), plan_of(1, 4, 512, 1, rows=4))
    own, _ = kernel.place(STRIP_PX)
    for warp in range(MULTIPLIERS // 32):
        for below in range(2):
            assert len(set(own[below, 32 * warp : 32 * warp + 32] % 32)) == 32


@pytest.mark.parametrize(
    ("batch", "side", "rows", "steps"),
    [
        (1, 1024, 47, 53),
        (1, 512, 12, 18),
        (8, 512, 47, 106),  # two tasks for each program
        (8, 1024, 94, 400),
        (1, 256, 4, 10),
    ],
)
def test_plans(batch: int, side: int, rows: int, steps: int) -> None:
    plan = plan_for(batch, side, side, H200)
    assert (plan.rows, plan.steps) == (rows, steps)
    assert plan.tasks == batch * plan.strips * plan.chunks and plan.programs <= H200


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 8, 8), (3, 100, 700), (1, 1023, 185), (2, 7, 1000)])
@pytest.mark.parametrize("programs", [1, 7, H200])
def test_plans_cover_the_map_once(batch: int, height: int, width: int, programs: int) -> None:
    plan = plan_for(batch, height, width, programs)
    assert (plan.chunks - 1) * plan.rows < height <= plan.chunks * plan.rows
    assert (plan.strips - 1) * STRIP_PX < width <= plan.strips * STRIP_PX
    assert plan.steps <= plan_of(batch, height, width, programs, rows=height).steps


@pytest.mark.slow
@pytest.mark.parametrize("kernel", list(PROGRAMS.values()), ids=str)
def test_kernels_compile_and_fit(kernel: HeadProgram) -> None:
    """For a card that is not here: its sums stay in registers, and products are not made to wait for each other."""
    skip_without_compiler()
    from cuda.bindings import nvrtc

    assert kernel.shared_bytes <= 227 * 1024
    program = nvrtc.nvrtcCreateProgram(kernel.source.encode(), b"kernel.cu", 0, [], [])[1]
    options = [option.encode() for option in (*OPTIONS, "--ptxas-options=-v")]
    assert int(nvrtc.nvrtcCompileProgram(program, len(options), options)[0]) == 0
    log = bytes(nvrtc.nvrtcGetProgramLogSize(program)[1])
    nvrtc.nvrtcGetProgramLog(program, log)
    assert b"0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in log
    assert b"serialized" not in log


def test_maps_that_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_form, "multiprocessors", lambda _device: H200)
    form = HopperHead(random_convolution(32), CPU)
    assert form.takes(torch.zeros(2, LEAST_HEIGHT, LEAST_WIDTH, 32).half())
    assert not form.takes(torch.zeros(2, LEAST_HEIGHT, LEAST_WIDTH - 1, 32).half())
    assert not form.takes(torch.zeros(2, LEAST_HEIGHT - 1, LEAST_WIDTH, 32).half())
    assert not form.takes(torch.zeros(2, 16, 16, 64).half())
    assert not form.takes(torch.zeros(2, 16, 16, 64).half()[..., :32])


def test_other_cards_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    form, obstacle = hopper_head(random_convolution(32), CPU)
    assert form is None and "no Hopper card" in obstacle
    monkeypatch.setattr(head_form, "why_not_card", lambda _device: "")
    monkeypatch.setattr(head_form, "HopperHead", lambda *_: (_ for _ in ()).throw(ImportError("no cuda")))
    form, obstacle = hopper_head(random_convolution(32), CPU)
    assert form is None and obstacle == "head failed in a trial: ImportError: no cuda"
    assert hopper_head(random_convolution(48), CPU) == (None, "")


def test_a_wrong_kernel_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial, with the definition in the kernel's place, and with a fault in it."""
    convolution, fault = random_convolution(32), 0.0

    def convolve(_self: object, x: Tensor, out: Tensor, plan: HeadPlan) -> None:
        assert plan.tasks > 2 * plan.programs and plan.rows + 6 > TAPS
        out.copy_(head_reference(x.float(), convolution) * (1 + fault))

    monkeypatch.setattr(head_form, "why_not_card", lambda _device: "")
    monkeypatch.setattr(head_form, "multiprocessors", lambda _device: H200)
    monkeypatch.setattr(HopperHead, "convolve", convolve)
    form, obstacle = hopper_head(convolution, CPU)
    assert form is not None and obstacle == ""
    fault = 0.01
    form, obstacle = hopper_head(convolution, CPU)
    assert form is None and obstacle == "head differed by 1e-02 in a trial"


def test_the_decoder_uses_it_without_scratch_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_form, "multiprocessors", lambda _device: H200)
    monkeypatch.setattr(
        triton_backend, "hopper_head", lambda convolution, device: (HopperHead(convolution, device), "head is slow")
    )
    backend = triton_backend.TritonBackend(fold_generator(Generator(32, 1).eval()), device=CPU)
    backend._ups, backend._hopper_ups = [], []
    monkeypatch.setattr(backend, "_empty", lambda *_shape: pytest.fail("scratch memory"))
    monkeypatch.setattr(HopperHead, "convolve", lambda _self, x, out, plan: out.fill_(plan.rows + x.shape[3]))
    image = backend._decode(torch.zeros(2, 16, 24, 32).half())
    assert image.shape == (2, COLOURS, 16, 24) and image.dtype == torch.float32 and (image == 33).all()
    assert backend.hopper_kernels.endswith("head is slow")


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize("inputs", list(PROGRAMS))
@pytest.mark.parametrize(
    ("batch", "height", "width", "rows"),
    [
        (1, 4, 8, None),
        (2, 13, 9, 5),
        (1, 31, 186, None),
        (2, 29, 187, 11),
        (1, 64, 189, 64),
        (3, 100, 400, 3),  # more tasks than multiprocessors
        (1, 200, 1024, None),
        (2, 512, 512, None),
    ],
)
def test_kernel_computes_the_definition(inputs: int, batch: int, height: int, width: int, rows: int | None) -> None:
    """Several images, strips that end anywhere; a race shows in one of several runs."""
    device = torch.device("cuda")
    convolution, x = random_convolution(inputs), random_map(batch, height, width, inputs)
    form, on_card, first = HopperHead(convolution, device), x.to(device), None
    plan = form.plan(on_card) if rows is None else plan_of(batch, height, width, H200, rows=rows)
    for _ in range(5):
        around = torch.full((batch + 2, COLOURS, height, width), math.nan, device=device)
        out = around[1:-1]
        form.convolve(on_card, out, plan)
        assert around[[0, -1]].isnan().all()  # nothing was written beside it
        first = out if first is None else first
        assert torch.equal(out, first)
    assert first is not None
    expected = head_reference(on_card.double(), convolution)
    assert (first.double() - expected).abs().max() < 5e-5


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize(("y", "x"), [(0, 0), (9, 185), (9, 186), (19, 199), (17, 196)])
def test_kernel_keeps_nan(y: int, x: int) -> None:
    """Where the definition has it, and only there."""
    device = torch.device("cuda")
    convolution, features = random_convolution(64), random_map(1, 20, 200, 64)
    features[0, y, x, 7] = math.nan
    form, out = HopperHead(convolution, device), torch.zeros(1, COLOURS, 20, 200, device=device)
    form.convolve(features.to(device), out, plan_of(1, 20, 200, 3, rows=8))
    expected = head_reference(features.double(), convolution)
    assert torch.equal(out.isnan().cpu(), expected.isnan())


@on_hopper
@pytest.mark.gpu
def test_large_sums_give_0_and_1() -> None:
    device = torch.device("cuda")
    convolution = random_convolution(32)
    x = random_map(1, 16, 40, 32) * 300
    form, out = HopperHead(convolution, device), torch.full((1, COLOURS, 16, 40), math.nan, device=device)
    form.convolve(x.to(device), out, plan_of(1, 16, 40, 3, rows=5))
    expected = head_reference(x.double(), convolution)
    assert out.min() == 0 and out.max() == 1
    assert (out.cpu().double() - expected).abs().max() < 1e-3


@on_hopper
@pytest.mark.gpu
def test_kernel_runs_in_a_graph() -> None:
    device = torch.device("cuda")
    form, x = HopperHead(random_convolution(64), device), random_map(1, 24, 300, 64).to(device)
    out, replayed = (torch.full((1, COLOURS, 24, 300), math.nan, device=device) for _ in range(2))
    form.convolve(x, out, form.plan(x))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        form.convolve(x, replayed, form.plan(x))
    graph.replay()
    assert torch.equal(out, replayed)


@on_hopper
@pytest.mark.gpu
def test_the_trial_takes_it() -> None:
    for inputs in PROGRAMS:
        form, obstacle = hopper_head(random_convolution(inputs), torch.device("cuda"))
        assert form is not None and obstacle == ""
