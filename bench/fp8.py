"""What products in FP8 gain and cost: time and PSNR beside float16, on a Hopper card.

    python bench/fp8.py --photos DIR --masks DIR [--kinds thin,thick,…] [--rounds 5] [--out FOLDER] [--name fp8-h200]

Time: the forward as a CUDA graph, in FP8 and in float16 in turns, big-lama's size with random weights and both included
networks' size; and how far the predictions of these are apart, in grey levels.
Cost: the included networks, the one for all holes and the crisp one, on the network protocol of `quality_protocols`,
eight photos of 512x512 at a time, since a lone one has maps too small for FP8. PSNR in the hole, prediction as it
comes out of the network. Prints Markdown and writes it with the environment to FOLDER/NAME.md (default: bench/results).
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import given
from bench.quality_figures import paired_bootstrap
from bench.quality_protocols import MASK_KINDS, Case, list_photos, make_cases
from bench.speed import environment
from bench.speed_model import captured, random_generator, random_input, time_device
from lama.checkpoint import load_generator
from lama.fast_generator import FastGenerator
from lama.generator import Generator
from lama.weight_difference import CRISP_WEIGHTS, apply_difference

RESULTS = Path(__file__).parent / "results"
SIZES = ((1, 512, 512), (1, 768, 768), (1, 1024, 1024), (4, 512, 512), (8, 512, 512), (1, 1536, 1536))
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=given.folder)
    parser.add_argument("--masks", type=given.folder, help="needed with --photos")
    parser.add_argument("--kinds", default=",".join(MASK_KINDS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--name", default="fp8-h200")
    options = parser.parse_args()
    if options.photos is not None and options.masks is None:
        parser.error("--photos needs --masks")
    if not torch.cuda.is_available():
        raise SystemExit("needs a Hopper card")
    lines = [", ".join(f"{key} {value}" for key, value in environment().items()), ""]
    lines += time_table(options.rounds)
    if options.photos is not None:
        lines += cost_table(options.photos, options.masks, options.kinds.split(","))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.name}.md").write_text("\n".join(lines) + "\n")


def forms(generator: Generator) -> dict[str, FastGenerator]:
    """Return the network in float16 and in FP8; SystemExit where this card has no FP8."""
    made = {
        name: FastGenerator(generator, device="cuda", dtype=torch.float16, fp8=fp8)
        for name, fp8 in (("float16", False), ("FP8", True))
    }
    if not made["FP8"].has_fp8:
        raise SystemExit(f"no FP8 here: {made['FP8'].describe()}")
    return made


def time_table(rounds: int) -> list[str]:
    """Time both forms of both sizes of network in turns: medians of the rounds' medians, smallest and largest."""
    lines = said(
        [
            "| network | size | float16, ms | FP8, ms | FP8 takes | largest / mean difference, grey levels |",
            "|---|---|---|---|---|---|",
        ]
    )
    for name, generator in (("big-lama's size", random_generator()), ("included", load_generator(None))):
        networks = forms(generator)
        for batch, height, width in SIZES:
            x = random_input(batch, height, width)
            graphs = {form: captured(network, x) for form, network in networks.items()}
            times: dict[str, list[float]] = {form: [] for form in graphs}
            for _ in range(rounds):
                for form, (graph, _) in graphs.items():
                    times[form].append(time_device(graph.replay).median_ms)
            difference = (graphs["FP8"][1] - graphs["float16"][1]).abs() * 255
            medians = {form: statistics.median(each) for form, each in times.items()}
            cells = [f"{medians[form]:.2f} ({min(each):.2f} to {max(each):.2f})" for form, each in times.items()]
            share = f"{100 * medians['FP8'] / medians['float16']:.0f} %"
            apart = f"{difference.max():.2f} / {difference.mean():.3f}"
            lines += said([f"| {name} | {batch}x{height}x{width} | {' | '.join(cells)} | {share} | {apart} |"])
            del graphs
    return [*lines, *said([""])]


def cost_table(photos: Path, masks: Path, kinds: Sequence[str]) -> list[str]:
    """Measure the PSNR of both forms in the hole, by kind of hole; the cost is the mean over photos."""
    lines = said(
        [
            "| network | hole | photos | PSNR float16, dB | FP8 | cost, dB (95 % interval) | largest cost of one "
            "| largest / mean difference, grey levels |",
            "|---|---|---|---|---|---|---|---|",
        ]
    )
    paths = list_photos(photos)
    included = load_generator(None)
    for name, generator in (("included", included), ("crisp", apply_difference(included, CRISP_WEIGHTS))):
        networks = forms(generator)
        every: list[np.ndarray] = []
        for kind in kinds:
            cases = [case for path in paths for case in make_cases(path, "network", [kind], masks)]
            rows = np.array([row for start in range(0, len(cases), BATCH) for row in costs(networks, cases, start)])
            every.append(rows)
            lines += said([cost_row(name, kind, rows)])
        rows = np.concatenate(every)
        cost, low, high = paired_bootstrap(rows[:, 0], rows[:, 1])
        lines += said([f"| {name} | all | {len(rows)} | | | {cost:.3f} ({low:.3f} to {high:.3f}) | | |"])
    return lines


def costs(networks: dict[str, FastGenerator], cases: Sequence[Case], start: int) -> list[tuple[float, ...]]:
    """Predict up to eight cases; return of each PSNR in float16, in FP8, and largest and mean difference."""
    chosen = cases[start : start + BATCH]
    # A batch that is not full has maps as large as a full one; what fills it is not counted.
    full = [*chosen, *[chosen[-1]] * (BATCH - len(chosen))]
    clean = torch.stack([torch.from_numpy(case.clean).permute(2, 0, 1) for case in full]).cuda().float() / 255
    hole = torch.stack([torch.from_numpy(case.hole)[None] for case in full]).cuda()
    x = torch.cat([clean * ~hole, hole.float()], dim=1)
    with torch.inference_mode():
        predictions = {form: network(x) for form, network in networks.items()}
    rows = []
    for index in range(len(chosen)):
        where = hole[index].expand(3, -1, -1)
        apart = (predictions["FP8"][index] - predictions["float16"][index])[where].abs() * 255
        scores = [psnr_db(predictions[form][index][where], clean[index][where]) for form in ("float16", "FP8")]
        rows.append((*scores, apart.max().item(), apart.mean().item()))
    return rows


def psnr_db(actual: Tensor, expected: Tensor) -> float:
    """Return the PSNR of numbers in [0, 1], unrounded, as both forms are less than a grey level apart."""
    return -10 * (actual - expected).square().mean().log10().item()


def cost_row(name: str, kind: str, rows: np.ndarray) -> str:
    """Return the line of a kind of hole: `rows` as `costs` gives them."""
    cost, low, high = paired_bootstrap(rows[:, 0], rows[:, 1])
    return (
        f"| {name} | {kind} | {len(rows)} | {rows[:, 0].mean():.2f} | {rows[:, 1].mean():.2f} "
        f"| {cost:.3f} ({low:.3f} to {high:.3f}) | {(rows[:, 0] - rows[:, 1]).max():.2f} "
        f"| {rows[:, 2].max():.1f} / {rows[:, 3].mean():.2f} |"
    )


def said(lines: list[str]) -> list[str]:
    """Print lines and return them."""
    print("\n".join(lines), flush=True)
    return lines


if __name__ == "__main__":
    main()
