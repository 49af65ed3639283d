"""Time, memory and accuracy of the network alone: ours as a CUDA graph's replay, beside what people run today."""

import copy
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from lama import trunk_schedule
from lama.fast_generator import FastGenerator
from lama.generator import Generator
from lama.kernels import cuda_kernel, early_launch, hopper_trunk
from lama.kernels.cuda_kernel import driver_config
from lama.triton_backend import TritonBackend

MEASURED_TFLOPS = 790  # a large float16 matrix product on an H200
BIG_LAMA_TFLOP_PER_MPX = 1.755  # big-lama at 1024x1024
ROUNDS = 30
LARGEST_FLOAT64_ACTIVATION = 30_000
ALL_ROWS = 2**40  # more than any map has
ORDERS = {
    "local after": {"MANY_ROWS": 0},
    "local beside": {"MANY_ROWS": ALL_ROWS},
    "cross after": {"FEW_ROWS": 0},
    "cross beside": {"FEW_ROWS": ALL_ROWS},
}


@dataclass(frozen=True)
class Timing:
    """Milliseconds: median, and the 5th and 95th percentile."""

    median_ms: float
    low_ms: float
    high_ms: float


def random_generator(
    *, width: int = 64, blocks: int = 18, seed: int = 0, variance: tuple[float, float] = (0.5, 2.0)
) -> Generator:
    """A generator with random weights and live batch-norm statistics, on the CPU."""
    torch.manual_seed(seed)
    torch.cuda.manual_seed(seed)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # big-lama's weights take a CPU seconds
        generator = Generator(width=width, blocks=blocks).eval().requires_grad_(False)
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.get_buffer("running_mean"), 0, 0.1)
            torch.nn.init.uniform_(module.get_buffer("running_var"), *variance)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.1)
    return generator.cpu()


def random_input(batch: int, height: int, width: int, *, seed: int = 0) -> Tensor:
    """Masked noise with its mask on the GPU."""
    random = torch.Generator("cuda").manual_seed(seed)
    image = torch.rand(batch, 3, height, width, device="cuda", generator=random)
    hole = (torch.rand(batch, 1, height, width, device="cuda", generator=random) > 0.7).float()
    return torch.cat([image * (1 - hole), hole], dim=1)


def captured(model: Callable[[Tensor], Tensor], x: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """Capture one forward into a graph; the returned tensor is its output after each replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.no_grad():
        for _ in range(2):
            model(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        out = model(x)
    return graph, out


def time_device(run: Callable[[], object], *, rounds: int = ROUNDS) -> Timing:
    """Time a call by device events, each round on its own."""
    for _ in range(5):
        run()
    torch.cuda.synchronize()
    times = []
    for _ in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return timing(times)


def timing(times_ms: list[float]) -> Timing:
    """Summarise single times."""
    ordered = sorted(times_ms)
    last = len(ordered) - 1
    return Timing(statistics.median(ordered), ordered[round(0.05 * last)], ordered[round(0.95 * last)])


def differences(actual: Tensor, expected: Tensor) -> dict[str, float]:
    """Largest and mean difference in grey levels of 255."""
    delta = (actual.double() - expected.double()).abs() * 255
    return {"max_grey": delta.max().item(), "mean_grey": delta.mean().item(), "finite": float(actual.isfinite().all())}


def float64_form(generator: Generator) -> Generator:
    """The published form in float64 on the GPU; made on the meta device, as random weights for it take seconds."""
    with torch.device("meta"):
        reference = Generator(generator.width, generator.blocks)
    reference.load_state_dict(generator.state_dict(), assign=True)
    return copy.deepcopy(reference).eval().requires_grad_(False).double().cuda()


def float64_reference(generator: Generator, x: Tensor) -> Tensor:
    """The published form in float64 on the GPU, one image at a time."""
    reference = float64_form(generator)
    with torch.no_grad():
        out = torch.cat([reference(image[None].double()) for image in x])
    del reference
    free_memory()
    return out


def free_memory() -> None:
    """Give back everything nobody holds."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()


def model_rows(
    sizes: list[tuple[int, int, int]], *, peers: list[str], generator: Generator
) -> Iterator[dict[str, Any]]:
    """Time every form at every (batch, height, width), a row as each is done; a form that fails keeps its message."""
    for batch, height, width in sizes:
        x = random_input(batch, height, width)
        reference = float64_reference(generator, x)
        for form in ["ours fp16", *peers]:
            row: dict[str, Any] = {"form": form, "batch": batch, "height": height, "width": width}
            try:
                row |= _time_form(form, generator, x, reference)
            except Exception as error:  # one form must not cost the others their turn
                row["message"] = f"{type(error).__name__}: {error}"[:300]
            free_memory()
            print(row_text(row), flush=True)
            yield row
        del x, reference


def row_text(row: dict[str, Any]) -> str:
    """One Markdown row."""
    place = f"{row['height']}x{row['width']} b{row['batch']}"
    if "message" in row:
        return f"| {row['form']} | {place} | {row['message']} |"
    return (
        f"| {row['form']} | {place} | {row['median_ms']:.2f} ({row['low_ms']:.2f}-{row['high_ms']:.2f}) "
        f"| {row['tflops']:.0f} | {row['floors']:.2f} | {row['peak_mib']:.0f} "
        f"| {row['max_grey']:.2f} / {row['mean_grey']:.3f} |"
    )


MODEL_HEADER = (
    "| form | size | ms (5-95 %) | TFLOP/s | x floor | peak MiB beyond weights | max / mean grey levels |\n"
    "|---|---|---|---|---|---|---|"
)


def _time_form(form: str, generator: Generator, x: Tensor, reference: Tensor) -> dict[str, Any]:
    model = build_form(form, generator, x)
    free_memory()
    weights_bytes = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with torch.no_grad():
        if form.startswith("ours"):
            graph, out = captured(model, x)
            measured = time_device(graph.replay)
        else:
            measured = time_device(lambda: model(x))
            out = model(x)
    peak = torch.cuda.max_memory_allocated() - weights_bytes
    reserved = torch.cuda.max_memory_reserved() - weights_bytes
    images_mpx = x.shape[0] * x.shape[2] * x.shape[3] / 2**20
    tflop = BIG_LAMA_TFLOP_PER_MPX * images_mpx
    return {
        "median_ms": measured.median_ms,
        "low_ms": measured.low_ms,
        "high_ms": measured.high_ms,
        "tflops": tflop / measured.median_ms * 1e3,
        "floors": measured.median_ms / (tflop / MEASURED_TFLOPS * 1e3),
        "peak_mib": peak / 2**20,
        "reserved_mib": reserved / 2**20,
        **differences(out, reference),
    }


def put_on_one_stream(backend: TritonBackend) -> None:
    """Launch everything on one stream from now on, so that nothing overlaps."""
    backend.trunk._stream = backend.trunk._cross_stream = None


def with_numbers(fused: FastGenerator, x: Tensor, module: ModuleType, numbers: Mapping[str, Any]) -> Tensor:
    """Run the forward with other numbers in a module, such as the limits between the orders of a layer's launches."""
    with mock.patch.dict(vars(module), numbers):
        return fused(x)


def none_early(fused: FastGenerator, x: Tensor) -> Tensor:
    """Run the forward with launches that wait until those before them have ended."""

    def late_config(*sizes: int, early: bool) -> Any:
        return driver_config(*sizes, early=False)

    not_early = mock.patch.object(early_launch, "why_not_card", return_value="not early")
    with not_early, mock.patch.object(cuda_kernel, "driver_config", late_config):
        return fused(x)


def build_form(form: str, generator: Generator, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Build the forward of one form.

    Forms: ours fp16, ours one stream, ours no Hopper, ours Hopper convolutions alone (of the trunk, before there were
    others), ours columns in three launches (before they were one), ours ends in Triton (before stem, first
    downsampling, head and rows were in CUDA C++), ours rows in Gluon, ours none early (each launch waits for the one
    before), ours local after, ours local beside, ours cross after, ours cross beside, ours fp16 torch, eager, trace,
    compile.
    """
    if form.startswith("ours"):
        kernels = "torch" if form.endswith("torch") else "auto"
        fused = FastGenerator(generator, device="cuda", dtype=torch.float16, kernels=kernels)
        if isinstance(fused.backend, TritonBackend):
            if "one stream" in form:
                put_on_one_stream(fused.backend)
            has_columns = not any(words in form for words in ("no Hopper", "alone", "three launches"))
            has_ends = has_columns and "ends in Triton" not in form
            if not has_columns:
                fused.backend.trunk._columns = None
            if not has_ends:
                fused.backend._hopper_stem = fused.backend._hopper_down = fused.backend._hopper_head = None
            if not has_ends or "rows in Gluon" in form:
                fused.backend.trunk._rows = None
            if "no Hopper" in form:
                fused.backend.trunk._hopper = None
            if "no Hopper" in form or "convolutions alone" in form:
                fused.backend._hopper_ups = [None] * len(fused.backend._hopper_ups)
            if "convolutions alone" in form and fused.backend.trunk._hopper is not None:
                fused.backend.trunk._hopper._has_entry = False
                slots = {"local_slots": lambda **_: 3}
                return lambda x: with_numbers(fused, x, hopper_trunk, slots)
            if "none early" in form:
                return lambda x: none_early(fused, x)
            for words, rows in ORDERS.items():
                if words in form:
                    return lambda x: with_numbers(fused, x, trunk_schedule, rows)
        elif not form.endswith("torch"):
            raise RuntimeError(fused.describe())
        return fused
    published = copy.deepcopy(generator).cuda()
    torch.backends.cuda.matmul.allow_tf32 = form == "compile"
    if form == "eager":
        return published
    with torch.no_grad():
        if form == "trace":
            return torch.jit.optimize_for_inference(torch.jit.trace(published, x, check_trace=False))
        if form == "compile":
            torch._dynamo.reset()  # or a second size is compiled for all sizes, which is slower
            return torch.compile(published, mode="reduce-overhead", dynamic=False)
    raise ValueError(f"no form {form!r}")


def profile_table(generator: Generator, size: tuple[int, int, int], *, rows: int = 40) -> str:
    """Where one forward's time goes, kernel by kernel, on one stream so that nothing overlaps."""
    fused = FastGenerator(generator, device="cuda", dtype=torch.float16)
    if isinstance(fused.backend, TritonBackend):
        put_on_one_stream(fused.backend)
    x = random_input(*size)
    graph, _ = captured(fused, x)
    graph.replay()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        graph.replay()
        torch.cuda.synchronize()
    kernels: dict[str, list[float]] = {}
    for event in profile.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            kernels.setdefault(event.name, []).append(event.self_device_time_total)
    lines = [f"{'kernel':60s} launches  total us  mean us"]
    for name, times in sorted(kernels.items(), key=lambda item: -sum(item[1]))[:rows]:
        lines.append(f"{name[:60]:60s} {len(times):8d} {sum(times):9.1f} {sum(times) / len(times):8.2f}")
    lines.append(f"{'sum':60s} {'':8s} {sum(map(sum, kernels.values())):9.1f}")
    return "\n".join(lines)


def nan_rows(generator: Generator, *, sides: list[int], inputs: int, seeds: int) -> list[dict[str, Any]]:
    """Look for NaN or infinity: many random inputs at every side, then wild batch-norm variances against float64."""
    rows: list[dict[str, Any]] = []
    fused = FastGenerator(generator, device="cuda", dtype=torch.float16)
    for side in sides:
        started = time.monotonic()
        x = random_input(1, side, side)
        graph, out = captured(fused, x)
        random = torch.Generator("cuda").manual_seed(side)
        bad = torch.zeros((), device="cuda", dtype=torch.int64)
        for turn in range(inputs):
            image, hole = x[:, :3], x[:, 3:]
            hole.uniform_(generator=random)
            torch.lt(hole, (turn + 1) / inputs, out=hole)  # from hardly a hole to nothing but one
            image.uniform_(generator=random).mul_(1 - hole)
            graph.replay()
            bad += (~out.sum().isfinite()).long()  # a sum of values in [0, 1] is finite if all of them are
        rows.append({"side": side, "inputs": inputs, "not_finite": int(bad), "s": time.monotonic() - started})
        print(f"{side}: {inputs} inputs, {int(bad)} not finite, {rows[-1]['s']:.1f} s", flush=True)
        del graph, out, x
        free_memory()
    for seed in range(seeds):
        wild = random_generator(width=generator.width, blocks=generator.blocks, seed=seed + 100, variance=(0.05, 5.0))
        rows.append({"seed": seed, **wild_variances(wild, side=512 if seed % 2 else 768)})
        print(rows[-1], flush=True)
    return rows


def wild_variances(generator: Generator, *, side: int) -> dict[str, Any]:
    """Compare one network with float64 and tell its largest float64 activation."""
    reference = float64_form(generator)
    largest = torch.zeros((), device="cuda", dtype=torch.float64)

    def watch(_module: torch.nn.Module, _inputs: object, output: object) -> None:
        for tensor in output if isinstance(output, tuple) else (output,):
            if isinstance(tensor, Tensor):
                torch.maximum(largest, tensor.abs().max(), out=largest)

    handles = [module.register_forward_hook(watch) for module in reference.modules()]
    x = random_input(1, side, side, seed=5)
    with torch.no_grad():
        expected = reference(x.double())
    for handle in handles:
        handle.remove()
    del reference
    free_memory()
    out = FastGenerator(generator, device="cuda", dtype=torch.float16)(x)
    figures = {"side": side, "largest_activation": largest.item(), **differences(out, expected)}
    figures["counts"] = figures["largest_activation"] < LARGEST_FLOAT64_ACTIVATION
    return figures
