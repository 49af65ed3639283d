"""Own the eye test: pages of pairs whose sides are shuffled, and what those who judged them preferred.

    .venv/bin/python bench/blind.py make --old accurate --new embedded --pages DIR --key FILE.json
    .venv/bin/python bench/blind.py score --key FILE.json ANSWERS.csv...

`make` fills the same large holes twice and draws pages of rows: the photo with its hole tinted, then the two fills, A
and B. Which of them is the new one is drawn from a seed and stands in the key alone, so keep that file out of the
judge's sight. A method is a weights file, "embedded" for what the program uses by default, or "accurate" for that
without the crisp network of large holes. In the pages' folder lies an empty answer sheet too, `answers.csv`: the judge
writes A, B or = behind each number. `score` counts a draw as half a vote.

Fills are what a repair gives (no dilation: these masks are cut from clean photos, nothing of an object sticks out) on
the network protocol's squares of 512 px.
"""

import argparse
import csv
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # Run as a file, Python looks for imports beside it; the rooms lie one folder up.
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from bench import given  # noqa: E402
from bench.quality_peers import Fill, RepairFill  # noqa: E402
from bench.quality_protocols import Case, list_photos, make_cases  # noqa: E402
from bench.quality_sheet import below, beside, focus_window, tile, tint  # noqa: E402

KINDS = ("thick", "object")
ROWS_PER_PAGE = 3
TILE_PX = 400
CHOICES = ("A", "B", "=")
CONFIDENCE_Z = 1.96  # of the 95 % interval


@dataclass(frozen=True)
class Preference:
    """What judges preferred.

    share is the part of all votes that went to the new method, a draw counting half; low and high are the 95 %
    interval of that share (Wilson) as if every vote were of its own.
    """

    new: int
    old: int
    draws: int
    share: float
    low: float
    high: float


def choose_cases(photos: Sequence[Path], masks: Path, count: int, *, seed: int) -> list[Case]:
    """Return `count` large holes in mixed order, as evenly spread over kinds and photos as that goes.

    Args:
        photos: the photos to choose from.
        masks: folder of <kind>/<photo>.png.
        count: how many.
        seed: of the order.

    Returns:
        The cases, as the network protocol makes them.

    Raises:
        SystemExit: there are not so many large holes.
    """
    order = np.random.default_rng(seed).permutation(len(photos))
    chosen: list[Case] = []
    # First every photo with one kind or the other in turn, then the rest.
    for turn in range(len(KINDS)):
        for place, index in enumerate(order):
            kind = KINDS[(place + turn) % len(KINDS)]
            chosen += make_cases(photos[index], "network", (kind,), masks)
            if len(chosen) == count:
                return chosen
    raise SystemExit(f"{count} pairs need as many large holes, {len(photos)} photos have {len(chosen)}")


def draw_sides(count: int, *, seed: int) -> list[str]:
    """Return the side of the new method, "A" or "B", for each pair: half of them each, in mixed order."""
    sides = ["A", "B"] * math.ceil(count / 2)
    return [sides[index] for index in np.random.default_rng(seed + 1).permutation(count)]


def draw_row(case: Case, fills: Mapping[str, np.ndarray], number: int) -> np.ndarray:
    """Return one pair's row: the hole, then the fills A and B, in one window around the hole."""
    window = focus_window(case.hole, smallest_px=256)
    pictures = {f"{number}": tint(case.given, case.hole), f"{number} A": fills["A"], f"{number} B": fills["B"]}
    return beside([tile(picture[window], label, side_px=TILE_PX) for label, picture in pictures.items()])


def make_pages(cases: Sequence[Case], old: Fill, new: Fill, pages: Path, *, seed: int) -> list[dict[str, str | int]]:
    """Fill every case with both methods, save the pages and the empty answer sheet, and return the key.

    Args:
        cases: large holes.
        old: the method that the new one is compared with.
        new: the other method.
        pages: folder for page-01.png and so on; made if it is missing.
        seed: of the sides.

    Returns:
        A row per pair: its number, photo, kind of hole, and the side of the new method.
    """
    pages.mkdir(parents=True, exist_ok=True)
    key: list[dict[str, str | int]] = []
    rows: list[np.ndarray] = []
    for number, (case, side) in enumerate(zip(cases, draw_sides(len(cases), seed=seed), strict=True), start=1):
        filled = {"new": new(case.given, case.hole), "old": old(case.given, case.hole)}
        other = "B" if side == "A" else "A"
        rows.append(draw_row(case, {side: filled["new"], other: filled["old"]}, number))
        key.append({"pair": number, "photo": case.photo, "kind": case.kind, "new": side})
        if len(rows) == ROWS_PER_PAGE or number == len(cases):
            Image.fromarray(below(rows)).save(pages / f"page-{math.ceil(number / ROWS_PER_PAGE):02d}.png")
            rows = []
    sheet = "".join(f"{row['pair']},\n" for row in key)
    (pages / "answers.csv").write_text(f"pair,choice\n{sheet}", encoding="utf-8")
    return key


def read_answers(file: Path, pairs: int) -> dict[int, str]:
    """Return a judge's choices by pair.

    Args:
        file: CSV table with the columns pair and choice, the latter A, B or =.
        pairs: how many there are; all have to be judged.

    Returns:
        "A", "B" or "=" by number of pair.

    Raises:
        ValueError: a choice is missing or is none of the three.
    """
    with file.open(encoding="utf-8", newline="") as table:
        answers = {int(row["pair"]): row["choice"].strip().upper() for row in csv.DictReader(table)}
    faults = [number for number in range(1, pairs + 1) if answers.get(number) not in CHOICES]
    if faults or len(answers) != pairs:
        raise ValueError(f"{file}: every pair from 1 to {pairs} needs one of {', '.join(CHOICES)}; look at {faults}")
    return answers


def count_votes(key: Sequence[Mapping[str, str | int]], answers: Sequence[Mapping[int, str]]) -> Preference:
    """Return what judges preferred, all votes together.

    Args:
        key: from `make_pages`.
        answers: one mapping per judge, from `read_answers`.

    Returns:
        The counts, and the share with its interval.
    """
    votes = [(row["new"], judged[int(row["pair"])]) for judged in answers for row in key]
    draws = sum(choice == "=" for _, choice in votes)
    new = sum(choice == side for side, choice in votes)
    share = (new + draws / 2) / len(votes)
    z_square = CONFIDENCE_Z**2 / len(votes)
    middle = (share + z_square / 2) / (1 + z_square)
    reach = math.sqrt(share * (1 - share) * z_square + z_square**2 / 4) / (1 + z_square)
    return Preference(new, len(votes) - new - draws, draws, share, middle - reach, middle + reach)


def agreement(answers: Sequence[Mapping[int, str]]) -> float:
    """Return the part of pairs on which two judges chose the same, as a mean over all twos; NaN for one judge."""
    twos = [(one, other) for index, one in enumerate(answers) for other in answers[index + 1 :]]
    same = [sum(one[pair] == other[pair] for pair in one) / len(one) for one, other in twos]
    return float(np.mean(same)) if same else float("nan")


def load_fill(weights: str) -> Fill:
    """Return whole repairs by a weights file, by what the program uses ("embedded"), or without a crisp network."""
    from inference import Inpainter

    if weights in ("embedded", "accurate"):
        inpainter = Inpainter.load(large_holes="crisp" if weights == "embedded" else "accurate")
    else:
        inpainter = Inpainter.load(weights)
    return RepairFill(inpainter, dilate_px=0)


def report(key_file: Path, sheets: Sequence[Path]) -> str:
    """Return the Markdown table of what every judge preferred, by kind and together."""
    key = json.loads(key_file.read_text(encoding="utf-8"))
    judges = {sheet.stem: read_answers(sheet, len(key["pairs"])) for sheet in sheets}
    rows = [(name, [judged]) for name, judged in judges.items()]
    rows += [("all", list(judges.values()))] if len(judges) > 1 else []
    kinds = {"all holes": KINDS, **{kind: (kind,) for kind in KINDS}}
    lines = [
        f"New: {key['new']}; old: {key['old']}; {len(key['pairs'])} pairs.",
        "",
        "| judge | holes | new | old | alike | share of new, a draw half | 95 % |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, judged in rows:
        for holes, wanted in kinds.items():
            pairs = [row for row in key["pairs"] if row["kind"] in wanted]
            if not pairs:
                continue
            seen = count_votes(pairs, judged)
            counts = f"{seen.new} | {seen.old} | {seen.draws}"
            lines.append(f"| {name} | {holes} | {counts} | {seen.share:.0%} | {seen.low:.0%} to {seen.high:.0%} |")
    if len(judges) > 1:
        lines += ["", f"Judges chose the same on {agreement(list(judges.values())):.0%} of the pairs."]
    return "\n".join(lines)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; folders fall back to the environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="fill, and draw the pages")
    make.add_argument(
        "--photos", type=given.folder, default=os.environ.get("EVAL_PHOTOS"), help="folder of clean photos"
    )
    make.add_argument(
        "--masks", type=given.folder, default=os.environ.get("EVAL_MASKS"), help="folder of <kind>/<photo>.png"
    )
    make.add_argument("--old", required=True, help="weights file, 'embedded' or 'accurate'")
    make.add_argument("--new", required=True, help="weights file, 'embedded' or 'accurate'")
    make.add_argument("--count", type=int, default=60)
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--pages", type=Path, required=True, help="folder for the pages and the answer sheet")
    make.add_argument("--key", type=Path, required=True, help="file for the key, outside the pages' folder")
    scored = commands.add_parser("score", help="count the votes")
    scored.add_argument("--key", type=given.file, required=True)
    scored.add_argument("--out", type=Path, help="save the table here too")
    scored.add_argument("answers", type=given.file, nargs="+")
    chosen = parser.parse_args(arguments)
    if chosen.command == "make":
        if chosen.photos is None or chosen.masks is None:
            parser.error("--photos and --masks (or EVAL_PHOTOS and EVAL_MASKS) are needed")
        if chosen.key.resolve().is_relative_to(chosen.pages.resolve()):
            parser.error("--key lies among the pages, where who judges them would see it")
    return chosen


def main(arguments: Sequence[str] | None = None) -> None:
    """Make pages or count votes, as the command line asks."""
    chosen = parse_arguments(arguments)
    if chosen.command == "score":
        table = report(chosen.key, chosen.answers)
        print(table)
        if chosen.out:
            chosen.out.write_text(table + "\n", encoding="utf-8")
        return
    cases = choose_cases(list_photos(chosen.photos), chosen.masks, chosen.count, seed=chosen.seed)
    pairs = make_pages(cases, load_fill(chosen.old), load_fill(chosen.new), chosen.pages, seed=chosen.seed)
    key = {"old": Path(chosen.old).stem, "new": Path(chosen.new).stem, "seed": chosen.seed, "pairs": pairs}
    chosen.key.parent.mkdir(parents=True, exist_ok=True)
    chosen.key.write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")
    print(f"{math.ceil(len(pairs) / ROWS_PER_PAGE)} pages in {chosen.pages}, the key in {chosen.key}")


if __name__ == "__main__":
    main()
