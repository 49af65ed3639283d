"""The engine on a real card: replay, batches, memory. Skipped where there is none."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import autotune
from engine.context_pass import CONTEXT_PX, plan_context, transfer_low_frequencies
from engine.cuda_graphs import GraphedModel, Model
from engine.device_turns import DeviceTurns
from engine.model_runner import ModelRunner
from engine.profiles import Profile
from inference import Inpainter, RepairRequest, autotune_profile
from lama.checkpoint import load_generator, save_generator
from lama.weight_difference import CRISP_WEIGHTS, apply_difference
from masks.boxes import slices_inside
from preprocess import build_input, upload
from tensor_ops.crop_packet import CropPacket
from tensor_ops.kernels import crop_kernels, seam_kernels
from tensor_ops.mask_dilation import dilate_on_device
from tests.engine.test_inference_repair import block, noise

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

ROOT = Path(__file__).resolve().parents[2]
PROFILE = Profile("test", 1024, "fp16", "on", (256, 384, 512, 640, 768, 1024), 0.9, 8)
ALL_BUCKETS_PX = (256, 384, 512, 640, 768, 1024, 1280, 1536)  # of every shipped profile
STEADY_MIB = 4
RESERVED = """
import json, sys
from engine.device_turns import DeviceTurns
from engine.model_runner import ModelRunner
from inference import Inpainter
def at_once(runner):
    runner.warm_up()
    yield
if sys.argv[1] == "at once":
    ModelRunner.warming_up = at_once
    DeviceTurns.prepare = lambda turns, steps: list(steps)
inpainter = Inpainter.load(device="cuda", early=True)
inpainter.wait_until_warm()
said = inpainter.describe()
print(json.dumps({"mib": said["memory_mib"], "graphs": said["graphs"]}))
"""
crop = pytest.importorskip("tensor_ops.kernels.crop", reason="needs Triton")
seam = pytest.importorskip("tensor_ops.kernels.seam", reason="needs Triton")


@pytest.fixture(scope="module")
def inpainter() -> Inpainter:
    return warm(PROFILE)


def warm(profile: Profile, device: str = "cuda") -> Inpainter:
    """An engine of which nothing is prepared any more."""
    return Inpainter.load(device=device, profile=profile)


@pytest.fixture
def whole_memory() -> Iterator[None]:
    """Undo a memory cap that a test sets."""
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def masked_inputs(side: int, batch: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator(device="cuda").manual_seed(seed)
    x = torch.rand((batch, 4, side, side), generator=generator, device="cuda")
    x[:, 3:] = (x[:, 3:] > 0.6).float()
    x[:, :3] *= 1 - x[:, 3:]
    return list(x)


def eager_model(inpainter: Inpainter) -> Model:
    """What the graphs of an engine capture."""
    graphed = inpainter._runner._graphed
    assert graphed is not None
    return graphed.model


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[Iterator[None]]:
    """What engines that are loaded would prepare in a thread."""
    steps: list[Iterator[None]] = []
    monkeypatch.setattr(DeviceTurns, "prepare", lambda _turns, taken: steps.append(taken))
    return steps


def test_the_common_size_is_ready_first_and_repairs_stay_what_they_are(held: list[Iterator[None]]) -> None:
    """With three repairs of other sizes while the rest is prepared; the largest is scaled, with a context pass."""
    profile = replace(PROFILE, buckets_px=(256, 512, 1024))
    image = noise((1600, 2000))
    masks = [block((1600, 2000), 300, 300, side) for side in (300, 60, 700, 1200)]
    loaded = Inpainter.load(device="cuda", profile=profile, early=True)
    runners = [loaded._runner, loaded._runner.for_hole(is_deep=True)]
    assert [runner.describe()["graphs"] for runner in runners] == [[[1, 512, 512]]] * 2
    early = []
    for mask in masks:
        early.append(loaded.repair(image, mask))
        next(held[0])
    for _ in held[0]:
        pass
    for runner in runners:
        assert runner._graphed is not None and runner._graphed.shapes_apart == []
        assert {(1, side, side) for side in profile.buckets_px} <= set(runner._graphed.shapes)
    for mask, before in zip(masks, early, strict=True):
        after = loaded.repair(image, mask)
        assert before.notes == after.notes and [box for box, _ in before.patches] == [box for box, _ in after.patches]
        assert np.abs(before.image.astype(int) - after.image).max() <= 1


def test_what_is_prepared_step_by_step_takes_the_memory_of_all_at_once() -> None:
    """All that the process has reserved, rehearsals included, each way in a process of its own."""
    ways = {way: start([sys.executable, "-c", RESERVED, way]) for way in ("at once", "in steps")}
    said = {way: json.loads(end(process).splitlines()[-1]) for way, process in ways.items()}
    assert said["in steps"]["graphs"] == said["at once"]["graphs"]
    assert said["in steps"]["mib"] - said["at once"]["mib"] <= STEADY_MIB, said


def test_what_was_asked_for_meanwhile_takes_the_memory_of_all_at_once() -> None:
    """Of the runner alone, twice in steps: once with a size that is asked for between the first two."""
    profile = replace(PROFILE, buckets_px=(256, 512, 1024, 1536), input_px=1536)
    generator = load_generator()
    crisp = apply_difference(generator, CRISP_WEIGHTS)
    reserved = []
    for turn in range(3):
        runner = ModelRunner(
            generator,
            crisp=crisp,
            device=torch.device("cuda:0"),
            precision="fp16",
            profile=profile,
        )
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        with torch.inference_mode():
            if turn == 0:
                runner.warm_up()
            else:
                for step, _ in enumerate(runner.warming_up()):
                    if turn == 2 and step == 0:
                        runner.predict(masked_inputs(1024, 1, 0))
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        reserved.append((torch.cuda.memory_reserved() - before) >> 20)
        runner.release()
    assert max(reserved) - reserved[0] <= STEADY_MIB, (
        f"MiB of all at once, step by step, with one asked for: {reserved}"
    )


def test_other_weights_right_after_the_start(tmp_path: Path) -> None:
    profile = replace(PROFILE, buckets_px=(256, 512, 1024))
    generator = load_generator()
    generator.load_state_dict({name: 0.9 * value for name, value in generator.state_dict().items()})
    save_generator(generator, tmp_path / "other.safetensors")
    image, mask = noise((300, 400)), block((300, 400), 100, 100, 90)
    loaded = Inpainter.load(device="cuda", profile=profile, early=True)
    before = loaded.repair(image, mask).image
    loaded.switch_weights(tmp_path / "other.safetensors")
    after = loaded.repair(image, mask)
    loaded.wait_until_warm()
    assert loaded.describe()["graphs"] == [[1, side, side] for side in profile.buckets_px]
    assert after.notes == [] and (after.image != before).any()
    assert np.abs(loaded.repair(image, mask).image.astype(int) - after.image).max() <= 1


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_a_card_is_timed_with_nothing_on_it_while_it_is_being_prepared(
    held: list[Iterator[None]], monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    before, taken = torch.cuda.memory_allocated(), []
    loaded = Inpainter.load(device="cuda", profile=replace(PROFILE, buckets_px=(256, 512, 1024)), early=True)
    for _ in range(steps):
        next(held[0])

    def time_card(*_arguments: Any, **_named: Any) -> None:
        taken.append((torch.cuda.memory_allocated() - before) >> 20)

    monkeypatch.setattr(autotune, "autotune_card", time_card)
    autotune_profile(loaded)
    assert taken[0] <= STEADY_MIB
    assert list(held[0]) == []
    assert loaded.describe()["graphs"] == []
    assert loaded.repair(noise((300, 400)), block((300, 400), 100, 100, 90)).notes == []


def test_a_program_that_ends_right_after_the_start_ends_in_peace() -> None:
    program = "import time; from inference import Inpainter; Inpainter.load(device='cuda', early=True); time.sleep({})"
    ended = [end(one) for one in [start([sys.executable, "-c", program.format(rest_s)]) for rest_s in (0, 0.1, 0.3)]]
    assert ended == [""] * 3


def start(command: list[str]) -> subprocess.Popen[str]:
    """Start a process in the checkout, whose output is kept."""
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> str:
    """Wait for a process that says nothing is wrong, and return what it printed."""
    printed, complaints = process.communicate(timeout=120)
    assert process.returncode == 0 and complaints == ""
    return printed


@pytest.mark.parametrize(("side", "batch"), [(256, 8), (512, 1), (512, 4), (768, 2), (1024, 1)])
def test_replay_matches_eager(inpainter: Inpainter, side: int, batch: int) -> None:
    runner = inpainter._runner
    for seed in range(3):
        inputs = masked_inputs(side, batch, seed)
        replayed = runner.predict(inputs).clone()
        eager = eager_model(inpainter)(torch.stack(inputs))
        assert (replayed - eager).abs().max().item() <= 1 / 255
    assert str([batch, side, side]) in str(runner.describe()["graphs"])


@pytest.mark.parametrize("side", ALL_BUCKETS_PX)
def test_no_nan_at_any_bucket(inpainter: Inpainter, side: int) -> None:
    for seed in range(5):
        assert torch.isfinite(inpainter._runner.predict(masked_inputs(side, 1, seed))).all()


def test_batch_equals_one_by_one_on_a_card(inpainter: Inpainter) -> None:
    """Up to the rounding of float16, which noise makes the most of; what is not missing is the photo's own."""
    requests = [RepairRequest(noise((700, 900), seed), block((700, 900), 200, 250, 100 + seed)) for seed in range(7)]
    for request, result in zip(requests, inpainter.repair_many(requests), strict=True):
        alone = inpainter.repair(request.image, request.mask)
        missing = inpainter._plan(request)[0].hole.layers((0, 0, 900, 700))[0]
        np.testing.assert_array_equal(result.image[~missing], request.image[~missing])
        np.testing.assert_array_equal(alone.image[~missing], request.image[~missing])
        difference = np.abs(result.image[missing].astype(int) - alone.image[missing])
        assert (difference <= 2).mean() >= 0.999 and difference.max() <= 4


def test_card_and_cpu_agree(inpainter: Inpainter) -> None:
    """With context up to the photo's borders, so that both run the same box."""
    image, mask = np.full((256, 256, 3), 100, np.uint8), block((256, 256), 53, 53, 150)
    image[::7, ::5] = 180
    on_cpu = Inpainter.load(device="cpu", precision="fp32")
    difference = np.abs(inpainter.repair(image, mask).image.astype(int) - on_cpu.repair(image, mask).image)
    assert difference.mean() <= 0.3 and np.quantile(difference, 0.999) <= 3


def test_sixteen_bit_known_region_is_exact_on_a_card(inpainter: Inpainter) -> None:
    image, mask = noise((300, 400), 1, np.uint16), block((300, 400), 100, 100, 90)
    result = inpainter.repair(image, mask, dilate_px=0)
    np.testing.assert_array_equal(result.image[~mask], image[~mask])
    assert (result.image[mask] != image[mask]).any()


@pytest.mark.parametrize("shape", [(700, 900), (2300, 2500)])
def test_card_grows_holes_as_the_host_does(inpainter: Inpainter, shape: tuple[int, int]) -> None:
    """The larger one is scaled, its distances are measured in strips."""
    mask = block(shape, 100, 90, shape[0] * 3 // 4)
    mask[20:30, 300:600] = True
    for crop in inpainter._plan(RepairRequest(noise(shape), mask)):
        dilated = dilate_on_device(crop.hole, inpainter._runner.pinned)
        assert dilated is not None and len(dilated.values_px) == 2
        missing, make_alpha = dilated.layers(crop.box)
        np.testing.assert_array_equal(missing.cpu().numpy(), crop.missing)
        inner = slices_inside(crop.patch_box, crop.box)
        np.testing.assert_allclose(make_alpha()[inner].cpu().numpy(), crop.alpha, atol=1e-6)


def test_lone_crops_come_in_packets_and_as_on_the_ordinary_way(
    inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after another, at the photo's corner, two of one size for two networks, of which one waits for no packet."""
    image, (y, x) = noise((1600, 2100)), np.ogrid[:1600, :2100]
    deep = (y - 1200) ** 2 + (x - 1600) ** 2 <= 150**2
    masks = [block((1600, 2100), 100, 100, 30), block((1600, 2100), 0, 0, 200), deep]
    masks += [block((1600, 2100), 300, 300, 40), deep | block((1600, 2100), 100, 100, 300)]
    masks[-1][120:380, 120:380] = False  # a frame, as large as the disc and thin
    pinned, brought = inpainter._runner.pinned, []
    bring = CropPacket.bring

    def watched(packet: CropPacket, *arguments: Any) -> Any:
        brought.append(packet.side)
        return bring(packet, *arguments)

    monkeypatch.setattr(CropPacket, "bring", watched)
    found = [inpainter.repair(image, mask) for mask in masks]
    assert len(brought) == len(masks) and set(brought) <= set(pinned.packets)
    monkeypatch.setattr(pinned, "packets", {})
    for mask, result in zip(masks, found, strict=True):
        expected = inpainter.repair(image, mask)
        assert [box for box, _ in result.patches] == [box for box, _ in expected.patches]
        assert np.abs(result.image.astype(int) - expected.image).max() <= 1 and (result.image != image)[mask].any()
    assert len(brought) == len(masks)


def test_memory_is_steady_over_two_hundred_repairs(inpainter: Inpainter) -> None:
    rng = np.random.default_rng(0)
    images = [noise((height, width), height) for height, width in ((300, 400), (1080, 1920), (900, 700))]
    levels: list[tuple[int, int]] = []
    for number in range(200):
        image = images[number % 3]
        side = (30, 120, 400, 1200)[number % 4]
        top, left = int(rng.integers(image.shape[0] // 2)), int(rng.integers(image.shape[1] // 2))
        inpainter.repair(image, block(image.shape[:2], top, left, side))
        levels.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))
    for kind in (0, 1):
        early, late = levels[11][kind], max(level[kind] for level in levels[12:])  # each kind was there once
        assert late - early <= STEADY_MIB << 20


@pytest.mark.parametrize("spare_mib", [40, 250, 700])
def test_repair_is_delivered_with_little_memory(inpainter: Inpainter, whole_memory: None, spare_mib: int) -> None:
    """A real allocator that says no: the ladder ends in a repair, whatever is left."""
    image, mask = noise((1080, 1920)), block((1080, 1920), 100, 200, 600)
    inpainter._runner.free_memory()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (spare_mib << 20)) / total)
    for _ in range(3):
        result = inpainter.repair(image, mask, dilate_px=0)
        np.testing.assert_array_equal(result.image[~mask], image[~mask])
        assert (result.image[mask] != image[mask]).any()
        if spare_mib == 40:
            assert [note.code for note in result.notes] == ["out_of_memory"]
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert inpainter.repair(image, mask).notes == [], "it does not recover"


def test_replay_that_differs_is_dropped_with_a_note() -> None:
    """Verification must see a graph that does not compute what eager does: here a model that changes after capture."""
    inpainter = warm(replace(PROFILE, cuda_graph="verify", buckets_px=(1024,)))
    predict, calls = eager_model(inpainter), []

    def drifting(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return predict(x) * (1.0 if len(calls) <= 3 else 0.5)

    inpainter._runner._graphed = GraphedModel(drifting, device=torch.device("cuda:0"), mode="verify")
    result = inpainter.repair(noise((1100, 1100)), block((1100, 1100), 100, 100, 700))
    assert [note.code for note in result.notes] == ["graph_dropped"]
    assert inpainter.describe()["cuda_graph"] == "off"
    assert inpainter.repair(noise((50, 50)), block((50, 50), 9, 9, 9)).notes == [], "said more than once"


def test_verified_graphs_are_kept() -> None:
    """That of the only bucket, and of the context pass that a hole of its size takes."""
    inpainter = warm(replace(PROFILE, cuda_graph="verify", buckets_px=(1024,)))
    expected = [[1, CONTEXT_PX, CONTEXT_PX], [1, 1024, 1024]]
    assert inpainter.describe()["cuda_graph"] == "verify" and inpainter.describe()["graphs"] == expected


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_of_the_context_are_taken_without_waiting(inpainter: Inpainter, dtype: type) -> None:
    """And are those that a CPU takes."""
    (crop,) = inpainter._plan(RepairRequest(noise((1500, 1500)), block((1500, 1500), 300, 300, 700)))
    context_crop = plan_context(crop, (1500, 1500))
    assert context_crop is not None and context_crop.sample_step > 1
    generator = torch.Generator(device="cuda").manual_seed(0)
    prediction = torch.rand((3, *crop.model_size), generator=generator, device="cuda")
    missing = build_input(upload(context_crop, noise((1500, 1500), dtype=dtype), inpainter._runner.pinned))[3:]
    context = torch.cat([torch.rand((3, *context_crop.model_size), generator=generator, device="cuda"), missing])
    expected = transfer_low_frequencies(prediction.cpu(), crop, context.cpu(), context_crop)
    assert (expected - prediction.cpu()).std() > 0.001
    torch.cuda.set_sync_debug_mode("error")
    try:
        shifted = transfer_low_frequencies(prediction, crop, context, context_crop)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(shifted.cpu(), expected, atol=1e-4, rtol=0)


def test_a_speck_far_from_the_stroke_is_repaired_too(inpainter: Inpainter) -> None:
    image, stroke = noise((3000, 4000)), block((3000, 4000), 1001, 300, 200)
    speck = block((3000, 4000), 2501, 3700, 3)
    alone, both = inpainter.repair(image, stroke), inpainter.repair(image, stroke | speck)
    assert [box for box, _ in alone.patches] == [box for box, _ in both.patches[:1]]
    np.testing.assert_allclose(both.patches[0][1].astype(int), alone.patches[0][1].astype(int), atol=1)
    assert (both.image != image)[speck].any() and not (alone.image != image)[speck].any()


LAST_CARD = torch.cuda.device_count() - 1 if torch.cuda.is_available() else 0


def test_model_on_the_last_card_runs_there_in_every_kernel_and_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton and graph capture take the current card, which stays cuda:0 for a caller who asks for cuda:1."""
    torch.cuda.set_device(0)
    used: list[int] = []
    for module, name in (
        (crop, "_input_kernel"),
        (crop, "_numbered_input_kernel"),
        (crop, "_composite_kernel"),
        (seam, "_smooth_kernel"),
    ):
        kernel = getattr(module, name)

        class Watched:
            def __init__(self, kernel: Any = kernel) -> None:
                self.kernel = kernel

            def __getitem__(self, grid: Any) -> Any:
                used.append(torch.cuda.current_device())
                return self.kernel[grid]

        monkeypatch.setattr(module, name, Watched())
    for kernels in (crop_kernels, seam_kernels):
        kernels.cache_clear()
    elsewhere = [torch.cuda.memory_allocated(card) for card in range(LAST_CARD)]
    loaded = warm(replace(PROFILE, buckets_px=(256, 1024)), f"cuda:{LAST_CARD}")
    image, mask = noise((300, 400), 1), block((300, 400), 100, 100, 90)
    result = loaded.repair(image, mask)
    large = loaded.repair(noise((1500, 1500)), block((1500, 1500), 200, 200, 900), quality="high")
    assert loaded.device == f"cuda:{LAST_CARD}" and "Triton" in str(loaded.describe()["kernels"])
    assert set(used) == {LAST_CARD}, "a kernel was launched on another card"
    assert torch.cuda.current_device() == 0, "the caller's card was changed"
    assert [torch.cuda.memory_allocated(card) for card in range(LAST_CARD)] == elsewhere
    assert result.notes == [] and (result.image[mask] != image[mask]).any() and large.patches
    x = masked_inputs(256, 1, 0)[0].to(loaded.device)  # asked for without the engine's door, from another card
    replayed = loaded._runner.predict([x]).clone()
    assert (replayed - eager_model(loaded)(x[None])).abs().max().item() <= 1 / 255
    assert torch.isfinite(loaded._runner.predict_float32([x])).all()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_cards_repair_at_once_and_agree() -> None:
    engines = [warm(PROFILE, f"cuda:{card}") for card in (0, LAST_CARD)]
    jobs = [(noise((700, 900), seed), block((700, 900), 200, 250, 100 + 10 * seed)) for seed in range(8)]
    expected = [engines[0].repair(image, mask).image for image, mask in jobs]

    def repair_all(engine: Inpainter) -> list[np.ndarray]:
        return [engine.repair(image, mask).image for image, mask in jobs]

    with ThreadPoolExecutor(2) as pool:
        for turn in [pool.submit(repair_all, engine) for engine in engines]:
            for got, wanted in zip(turn.result(), expected, strict=True):
                assert np.abs(got.astype(int) - wanted).max() <= 1
