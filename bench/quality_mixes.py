"""Own the table of ways to make one fill of two networks' predictions, for large holes.

    .venv/bin/python bench/quality_mixes.py --photos DIR --masks DIR --features FILE [--every 9] [--ways NAME ...]

The accurate network (the embedded one) is near the photo in colour and blurs; the crisp one, by default
training/crisp.safetensors, makes up texture. Every way below takes both predictions, matched at the rim, of one hole on
the network protocol:

    accurate, crisp     one of them
    depth 16            the accurate one near the rim, the crisp one from 24 px on, faded in between
    low 2, low 4        the crisp one with the low frequencies of the accurate one, by a Gaussian of so many pixels
    no mesh             minus what of its texture repeats every 8 px, the mean over neighbouring cells (`without_mesh`)

The table has PSNR, SSIM, perceptual distance, median texture and periodic share (`quality_texture`) of thick and object
holes. Mixes of the weights themselves are files of their own, which `quality.py` measures; training/LOG.md has them.
Prints the table, and saves it with every hole's figures under bench/results/.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # Run as a file, Python looks for imports beside it; the rooms lie one folder up.
    sys.path[0] = str(ROOT)

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from bench import given  # noqa: E402
from bench.quality_protocols import Case, list_photos, make_cases  # noqa: E402
from bench.quality_texture import PERIOD_PX, TEXTURE_WINDOW_PX  # noqa: E402

KINDS = ("thick", "object")
SMALLEST_SHARE = 1e-3  # of a blurred pixel that is hole
CELLS_SIGMA = 2.0  # of the Gaussian over cells of 8 px by which the mesh is found
LEAST_CELL_SHARE = 0.02
FIGURES = ("psnr", "ssim", "perceptual", "texture", "periodic", "photo_periodic")

Mix = Callable[[np.ndarray, np.ndarray, Case], np.ndarray]  # accurate, crisp: (H, W, 3) float32 in [0, 1]


def rise(hole: np.ndarray, begin_px: float, length_px: float) -> np.ndarray:
    """Return (H, W, 1) float32 that is 0 up to a depth in the hole and rises to 1 over so many pixels more."""
    depth_px = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.clip((depth_px - begin_px) / length_px, 0, 1)[..., None]


def with_low_frequencies(crisp: np.ndarray, accurate: np.ndarray, hole: np.ndarray, sigma_px: float) -> np.ndarray:
    """Return the crisp fill with the accurate one's low frequencies, taken over the hole alone, but not at its rim."""
    inside = hole.astype(np.float32)
    blurred = [
        cv2.GaussianBlur(array, (0, 0), sigma_px, borderType=cv2.BORDER_CONSTANT)
        for array in ((accurate - crisp) * inside[..., None], inside)
    ]
    return crisp + blurred[0] / np.maximum(blurred[1], SMALLEST_SHARE)[..., None] * rise(hole, 1, 2 * sigma_px)


def without_mesh(fill: np.ndarray, case: Case) -> np.ndarray:
    """Return the fill minus what of its texture repeats every 8 px, as far as neighbouring cells of 8 px agree."""
    inside = case.hole.astype(np.float32)
    mixed = np.where(case.hole[..., None], fill, case.given / np.float32(255))
    fine = mixed - cv2.blur(mixed, (TEXTURE_WINDOW_PX, TEXTURE_WINDOW_PX), borderType=cv2.BORDER_REFLECT_101)
    inner: np.ndarray = fine * inside[..., None]
    mesh = np.zeros_like(inner)
    for row in range(PERIOD_PX):
        for column in range(PERIOD_PX):
            phase = np.s_[row::PERIOD_PX, column::PERIOD_PX]
            blurred = [
                cv2.GaussianBlur(np.ascontiguousarray(a[phase]), (0, 0), CELLS_SIGMA, borderType=cv2.BORDER_CONSTANT)
                for a in (inner, inside)
            ]
            mesh[phase] = blurred[0] / np.maximum(blurred[1], LEAST_CELL_SHARE)[..., None]
    return fill - mesh * rise(case.hole, 1, 4)


def by_depth(accurate: np.ndarray, crisp: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Return the accurate fill at the rim and the crisp one from 24 px on."""
    share = rise(hole, 8, 16)
    return accurate * (1 - share) + crisp * share


WAYS: dict[str, Mix] = {
    "accurate": lambda accurate, crisp, case: accurate,
    "accurate, no mesh": lambda accurate, crisp, case: without_mesh(accurate, case),
    "crisp": lambda accurate, crisp, case: crisp,
    "crisp, no mesh": lambda accurate, crisp, case: without_mesh(crisp, case),
    "crisp, low 2": lambda accurate, crisp, case: with_low_frequencies(crisp, accurate, case.hole, 2),
    "crisp, low 4": lambda accurate, crisp, case: with_low_frequencies(crisp, accurate, case.hole, 4),
    "crisp, low 3, no mesh": lambda accurate, crisp, case: without_mesh(
        with_low_frequencies(crisp, accurate, case.hole, 3), case
    ),
    "depth 16": lambda accurate, crisp, case: by_depth(accurate, crisp, case.hole),
}


def compose(fill: np.ndarray, case: Case) -> np.ndarray:
    """Return the photo, (H, W, 3) uint8, with its hole filled."""
    result = case.given.copy()
    result[case.hole] = np.rint(np.clip(fill, 0, 1) * 255).astype(np.uint8)[case.hole]
    return result


def measure(chosen: argparse.Namespace) -> list[dict[str, str | float]]:
    """Return a row of figures per hole and way."""
    import torch

    from bench.quality_scores import Scorer
    from lama.checkpoint import load_generator
    from lama.fast_generator import FastGenerator
    from tensor_ops.seam_correction import correct_seam

    files = (None, chosen.crisp)
    networks = [FastGenerator(load_generator(file), device="cpu", dtype=torch.float32) for file in files]
    scorer = Scorer(chosen.features)
    rows: list[dict[str, str | float]] = []
    for photo in list_photos(chosen.photos, every=chosen.every):
        for case in make_cases(photo, "network", KINDS, chosen.masks):
            with torch.inference_mode():
                missing = torch.from_numpy(case.hole)[None, None].float()
                rgb = torch.from_numpy(case.given).permute(2, 0, 1)[None].float() / 255
                model_input = torch.cat([rgb * (1 - missing), missing], 1)
                predictions = [
                    correct_seam(network(model_input), model_input)[0].permute(1, 2, 0).numpy() for network in networks
                ]
            for way in chosen.ways:
                filled = compose(WAYS[way](predictions[0], predictions[1], case), case)
                figures = asdict(scorer.score(filled, case))
                rows.append({"way": way, "photo": case.photo, "kind": case.kind, **{f: figures[f] for f in FIGURES}})
    return rows


def draw_table(rows: Sequence[dict[str, str | float]]) -> str:
    """Return the Markdown table of all ways in the rows."""
    photos = len({row["photo"] for row in rows})
    counts = {kind: len({row["photo"] for row in rows if row["kind"] == kind}) for kind in KINDS}
    lines = [
        "# Two networks, one fill",
        "",
        f"{photos} photos, holes: " + ", ".join(f"{kind} {count}" for kind, count in counts.items()) + ". Network",
        "protocol, matched at the rim. PSNR in dB / SSIM / perceptual distance / median texture / periodic share (the",
        "photos' own).",
        "",
        "| | " + " | ".join(KINDS) + " |",
        "|---|---|---|",
    ]
    for way in dict.fromkeys(row["way"] for row in rows):
        cells = []
        for kind in KINDS:
            some = [row for row in rows if row["way"] == way and row["kind"] == kind]
            values = {figure: np.array([row[figure] for row in some], float) for figure in FIGURES}
            cells.append(
                f"{values['psnr'].mean():.2f} / {values['ssim'].mean():.3f} / {values['perceptual'].mean():.3f} / "
                f"{np.nanmedian(values['texture']):.2f} / {np.nanmean(values['periodic']):.3f} "
                f"({np.nanmean(values['photo_periodic']):.3f})"
            )
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=given.folder, default=os.environ.get("EVAL_PHOTOS"))
    parser.add_argument("--masks", type=given.folder, default=os.environ.get("EVAL_MASKS"))
    parser.add_argument("--features", type=given.file, default=os.environ.get("EVAL_FEATURES"), help="SqueezeNet 1.0")
    parser.add_argument("--crisp", type=given.file, default=ROOT / "training" / "crisp.safetensors")
    parser.add_argument("--every", type=int, default=3, help="every n-th photo in sorted order")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "quality-mixes")
    chosen = parser.parse_args(arguments)
    if chosen.photos is None or chosen.masks is None:
        parser.error("--photos and --masks (or EVAL_PHOTOS and EVAL_MASKS) are needed")
    rows = measure(chosen)
    table = draw_table(rows)
    print(table)
    chosen.out.with_suffix(".json").write_text(json.dumps(rows, indent=None) + "\n", encoding="utf-8")
    chosen.out.with_suffix(".md").write_text(table + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
