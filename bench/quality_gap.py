"""How much better the network is on photos it was trained on than on others of the same kind: what it learnt by heart.

    .venv/bin/python bench/quality_gap.py --photos DIR --masks DIR --features FILE --weights FILE...

DIR holds the folders of the training photos, `eval/`, and the two tables of sources (SOURCES-train.csv with columns
`file`, `source`, `path`; SOURCES-eval.csv with `source_repo` instead). Every photo is cut to a square of 448 px, the
size the training photos have, and gets the thick and the object mask of an evaluation photo, of which the middle 448 of
512 px are kept. Printed, by kind of source: the perceptual distance as a share of Telea's, which is what the bar is set
in, and decibels beyond Telea's. Sources with photos in both sets are kept apart. The table goes to
bench/results/quality-gap.md.
"""

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import given
from bench.quality_peers import Fill, NetworkFill, fill_telea
from bench.quality_protocols import NETWORK_SIDE_PX, Case, centre_square, list_photos, read_mask, read_rgb
from bench.quality_scores import Scorer

SIDE_PX = 448
MARGIN_PX = (NETWORK_SIDE_PX - SIDE_PX) // 2
KINDS = ("thick", "object")
GROUPS = {"CID22": "CID22", "clic2025": "CLIC 2025", "GSkins": "places", "FaunaMap": "birds"}
OTHERS = "other sources"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=given.folder, required=True)
    parser.add_argument("--masks", type=given.folder, required=True)
    parser.add_argument("--features", type=given.file, required=True)
    parser.add_argument("--weights", type=given.file, nargs="+", required=True)
    parser.add_argument("--most", type=int, default=20, help="photos of one source and set")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    options = parser.parse_args()
    fills: dict[str, Fill] = {path.stem: NetworkFill(path, device="cpu", precision="fp32") for path in options.weights}
    scorer = Scorer(options.features)
    figures: dict[tuple[str, str, str], list[tuple[float, float, float]]] = {}
    for group, part, case in cases(options.photos, options.masks, most=options.most):
        telea = scorer.score(fill_telea(case.given, case.hole), case)
        for name, fill in fills.items():
            ours = scorer.score(fill(case.given, case.hole), case)
            row = (ours.perceptual, telea.perceptual, ours.psnr - telea.psnr)
            figures.setdefault((name, group, part), []).append(row)
    lines = [
        "| weights | source | photos | holes | perceptual, share of Telea's | dB beyond Telea |",
        "|---|---|---|---|---|---|",
    ]
    for (name, group, part), rows in sorted(figures.items()):
        ours, telea, decibels = np.mean(rows, axis=0)
        lines.append(f"| {name} | {group} | {part} | {len(rows)} | {ours / telea:.3f} | {decibels:.2f} |")
    text = "\n".join(lines)
    print(text)
    title = f"# What was learnt by heart\n\n{__doc__.splitlines()[0]}"
    title += f" `bench/quality_gap.py`, torch {torch.__version__}.\n\n"
    (options.out / "quality-gap.md").write_text(title + text + "\n", encoding="utf-8")


def cases(photos: Path, masks: Path, *, most: int) -> Iterator[tuple[str, str, Case]]:
    """Yield (group of sources, "trained on" or "new", case) of at most `most` photos of a group and set."""
    stems = [path.stem for path in list_photos(photos / "eval")]
    for part, (table, folder, source) in {
        "new": ("SOURCES-eval.csv", photos / "eval", "source_repo"),
        "trained on": ("SOURCES-train.csv", photos, "source"),
    }.items():
        if not (photos / table).is_file():
            raise SystemExit(f"{photos} has no {table}, the table of its photos' sources")
        with (photos / table).open(newline="", encoding="utf-8") as opened:
            rows = list(csv.DictReader(opened))
        by_group: dict[str, list[Path]] = {}
        for row in rows:
            place = f"{row[source]}/{row['path']}"
            group = next((name for word, name in GROUPS.items() if word in place), OTHERS)
            by_group.setdefault(group, []).append(folder / row["file"])
        for group, files in by_group.items():
            for number, file in enumerate(files[:: max(1, len(files) // most)][:most]):
                image = read_rgb(file)
                if min(image.shape[:2]) < SIDE_PX:
                    continue
                for kind in KINDS:
                    mask = centre_square(read_mask(masks / kind / f"{stems[number % len(stems)]}.png"))
                    hole = mask[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX] > 0
                    if hole.any():
                        square = centre_square(image, side_px=SIDE_PX)
                        yield group, part, Case("network", file.stem, kind, square, square, hole, hole)


if __name__ == "__main__":
    main()
