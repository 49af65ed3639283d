"""Do the ten commonest jobs on the page in a real Chromium, count the actions, write docs/jobs.md and its pictures.

    .venv/bin/python -m docs.make_jobs

The real program with the included weights. The marks are drawn on photos that come with the program, so that what lay
below them is known: a job is done when the marked pixels' mean error has fallen below half of what the mark made. Exit
code 1 when one is not, or when a job takes more actions than in IOPaint.

An action is a click, a key, a choice of files, or a stroke from press to release, a scribble too. Counted from the open
photo to the repaired one; opening is one in both. "Repair as soon as the brush is lifted" is on, because IOPaint begins
at the release of a stroke too.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tests.support.page_driver import Person, launch_chromium, open_browser
from tests.support.serving import ROOT, RunningServer

DOCS = ROOT / "docs"
PICTURES = DOCS / "jobs"
SAMPLES, DATA = ROOT / "web" / "static" / "samples", ROOT / "tests" / "data"
WINDOW = {"width": 1100, "height": 720}
SHOT_PX = 480
PATIENCE_MS = 90_000
LEFT_BAR = 0.5  # of the mark's error
Points = list[tuple[float, float]]
HEAD = """# The ten commonest jobs

Made by `python -m docs.make_jobs`, which does each job in Chromium with the included network and counts. An action is
a click, a key, a choice of files, or a stroke from press to release, a scribble too. Counted from the open photo to the
repaired one; opening is one in both. *Repair as soon as the brush is lifted* is on here; without it a painted repair
takes one action more.

IOPaint 1.6 is counted by its own source (`web_app/src/lib/states.ts`), not run: with LaMa a repair begins when a stroke
is released, painting waits while it runs, the brush begins at 7.8 % of the photo's shorter side, and what is not
painted by hand needs a plug-in that is not installed by default.

To the file: counted on until the repaired file lies on the disk of the machine that repairs, one's own. Here every
result is written to `outputs/`, which is looked at after each job; in IOPaint it is downloaded, one action a photo.

| job | here | IOPaint | to the file, here and in IOPaint | left of the mark's error |
|---|---|---|---|---|"""


@dataclass
class Scene:
    """A photo with a mark: its name, the pixels with it and without it (None where the thing was in the photo)."""

    name: str
    marked: Image.Image
    clean: Image.Image | None

    def file(self) -> Any:
        """Return it as Playwright takes files."""
        data = io.BytesIO()
        self.marked.save(data, "PNG")
        return {"name": self.name, "mimeType": "image/png", "buffer": data.getvalue()}


@dataclass
class Hands:
    """Somebody at the page whose actions are counted; `before` is what the page looked like just before the repair."""

    person: Person
    actions: list[str] = field(default_factory=list)
    before: bytes = b""
    rounds: int = 0

    def stroke(self, points: Points) -> None:
        """Drag over fractions of the photo."""
        mouse = self.person.page.mouse
        first, *others = [self.person.stage_point(x, y) for x, y in points]
        mouse.move(*first)
        mouse.down()
        for x, y in others:
            mouse.move(x, y, steps=6)
        self.look()
        mouse.up()
        self.actions.append("stroke")
        self.wait()

    def press(self, action: str, name: str) -> None:
        """Click a button; what it does is waited for by the job."""
        self.person.press(action)
        self.actions.append(name)

    def key(self, key: str) -> None:
        """Press a key."""
        self.person.key(key)
        self.actions.append(key)

    def look(self) -> None:
        """Remember what the page looks like."""
        self.before = self.person.page.screenshot()

    def wait(self) -> None:
        """Wait until a further round is there."""
        self.rounds += 1
        last = f'[data-part="rounds"] li:nth-child({self.rounds + 1}) [aria-current="true"]'
        self.person.page.locator(last).wait_for(timeout=PATIENCE_MS)


@dataclass
class Job:
    """One line of the table: how many actions it takes in IOPaint, and why so many."""

    name: str
    scene: Callable[[], list[Scene]]
    do: Callable[[Hands], None]
    iopaint: int
    why: str


def sample(path: Path, scale: float = 1.0) -> Image.Image:
    with Image.open(path) as photo:
        size = (round(photo.width * scale), round(photo.height * scale))
        return photo.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def drawn(name: str, clean: Image.Image, draw: Callable[[ImageDraw.ImageDraw, int, int], None]) -> Scene:
    layer = Image.new("RGBA", clean.size)
    draw(ImageDraw.Draw(layer), *clean.size)
    return Scene(name, Image.alpha_composite(clean.convert("RGBA"), layer).convert("RGB"), clean)


def wire(draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    draw.line([(x * width, y * height) for x, y in WIRE], fill=(25, 25, 30, 255), width=4, joint="curve")


def stamp(draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    font = ImageFont.load_default(height * 0.05)
    draw.text((0.7 * width, 0.88 * height), "2026 07 14", fill=(255, 150, 40, 255), font=font)


def tiles(draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    font = ImageFont.load_default(height * 0.055)
    for column in range(4):
        for row in range(3):
            place = ((0.04 + 0.25 * column) * width, (0.12 + 0.3 * row) * height)
            draw.text(place, "SAMPLE", fill=(255, 255, 255, 150), font=font)


def dust(draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    for x, y in SPECKS:
        draw.ellipse((x * width - 3, y * height - 2, x * width + 3, y * height + 3), fill=(250, 248, 240, 255))


def logo(draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    x, y, r = 0.88 * width, 0.16 * height, 0.05 * height
    draw.ellipse((x - r, y - r, x + r, y + r), fill=(220, 40, 60, 255), outline=(255, 255, 255, 255), width=4)
    draw.polygon([(x - r / 2, y + r / 2), (x, y - r / 1.6), (x + r / 2, y + r / 2)], fill=(255, 255, 255, 255))


def sign(draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    font = ImageFont.load_default(height * 0.035)
    for row, text in enumerate(("STAFF", "ONLY")):
        draw.text((0.675 * width, (0.64 + 0.05 * row) * height), text, fill=(40, 40, 40, 255), font=font)


def spot(draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    x, y = SPOT[0] * width, SPOT[1] * height
    draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=(190, 50, 45, 255))


def border(draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    draw.line([(x * width, y * height) for x, y in BORDER], fill=(230, 30, 30, 255), width=6, joint="curve")


WIRE = [(0.0, 0.10), (0.25, 0.15), (0.5, 0.17), (0.75, 0.15), (1.0, 0.10)]
PERSON = [(0.53, 0.49), (0.58, 0.52), (0.53, 0.55), (0.6, 0.58), (0.52, 0.61), (0.6, 0.64), (0.5, 0.67), (0.6, 0.68)]
STAMP = [(0.68, 0.91), (0.98, 0.91)]
SPECKS = [(0.07 + 0.066 * i, 0.12 + 0.61 * (i * 7 % 14) / 14) for i in range(14)]
MISSED = 9
LOGO = [(0.85, 0.13), (0.91, 0.13), (0.85, 0.17), (0.91, 0.17), (0.86, 0.2), (0.9, 0.2)]
SIGN = [(0.66, 0.66), (0.77, 0.66), (0.66, 0.71), (0.76, 0.71)]
SPOT = (0.632, 0.32)
BORDER = [(0.02 + 0.015 * (i % 2), 0.04 + 0.09 * i) for i in range(11)]


def do_tiles(hands: Hands) -> None:
    hands.press("find-text", "Find text")
    hands.person.page.locator('[data-act="clear"]:not([disabled])').wait_for(timeout=PATIENCE_MS)
    hands.look()
    hands.press("repair", "Repair")
    hands.wait()


def do_dust(hands: Hands) -> None:
    hands.press("find-spots", "Find spots")
    hands.person.page.locator('[data-act="clear"]:not([disabled])').wait_for(timeout=PATIENCE_MS)
    hands.stroke([SPECKS[MISSED]])  # the one in the feathers; its release begins the repair


def do_second(hands: Hands) -> None:
    hands.stroke(STAMP)
    hands.press("batch-mask", "Repair the same place")
    done = "document.querySelectorAll('[data-part=strip-list] [data-stage=done]').length === 1"
    hands.person.page.wait_for_function(done, timeout=PATIENCE_MS)


def strokes(points: Points) -> Callable[[Hands], None]:
    return lambda hands: hands.stroke(points)


JOBS = [
    Job("A person", lambda: [Scene("pier.png", sample(DATA / "pier.jpg", 2), None)], strokes(PERSON), 1, "one stroke"),
    Job("A wire", lambda: [drawn("wire.png", sample(SAMPLES / "street.jpg"), wire)], strokes(WIRE), 1, "one stroke"),
    Job(
        "A date stamp", lambda: [drawn("stamp.png", sample(SAMPLES / "bird.jpg"), stamp)], strokes(STAMP), 1,
        "one stroke",
    ),
    Job(
        "A tiled watermark", lambda: [drawn("tiles.png", sample(SAMPLES / "pump.jpg"), tiles)], do_tiles, 12,
        "a stroke for each of 12 marks",
    ),
    Job(
        "Dust on a scan", lambda: [drawn("dust.png", sample(SAMPLES / "bird.jpg"), dust)], do_dust, len(SPECKS),
        f"a dab for each of {len(SPECKS)} specks",
    ),
    Job("A logo", lambda: [drawn("logo.png", sample(SAMPLES / "street.jpg"), logo)], strokes(LOGO), 1, "one stroke"),
    Job(
        "Text on a sign", lambda: [drawn("sign.png", sample(SAMPLES / "street.jpg"), sign)], strokes(SIGN), 1,
        "one stroke over both lines",
    ),
    Job(
        "A spot on a face", lambda: [drawn("spot.png", sample(SAMPLES / "bird.jpg"), spot)], strokes([SPOT]), 1,
        "one dab; the face is a bird's",
    ),
    Job(
        "A scribble at the border", lambda: [drawn("border.png", sample(DATA / "skyline.jpg", 2), border)],
        strokes(BORDER), 1, "one stroke",
    ),
    Job(
        "The same on a second photo",
        lambda: [
            drawn("first.png", sample(SAMPLES / "bird.jpg"), stamp),
            drawn("second.png", sample(SAMPLES / "pump.jpg"), stamp),
        ],
        do_second, 3, "a stroke, opening the second photo, the stroke again",
    ),
]  # fmt: skip


def error_left(scene: Scene, result: Image.Image) -> float | None:
    """Return the marked pixels' mean error as a fraction of what the mark made; None where it is not known."""
    if scene.clean is None:
        return None
    clean, marked, now = (np.asarray(image.convert("RGB"), np.float32) for image in (scene.clean, scene.marked, result))
    hole = np.abs(marked - clean).max(axis=2) > 12
    return float(np.abs(now - clean)[hole].mean() / np.abs(marked - clean)[hole].mean())


def carry_out(job: Job, server: RunningServer, browser: Any) -> tuple[Hands, list[float | None]]:
    """Open the job's photos, do it, keep its picture, and say how much of each mark is left."""
    scenes = job.scene()
    person = Person(open_browser(browser, viewport=WINDOW, color_scheme="light"), server.url)
    person.page.set_default_timeout(PATIENCE_MS)
    person.page.locator(".fft-file").first.set_input_files([scene.file() for scene in scenes])
    if len(scenes) > 1:
        uploaded = f"document.querySelectorAll('[data-part=strip-list] img[src]').length === {len(scenes)}"
        person.page.wait_for_function(uploaded, timeout=PATIENCE_MS)
    else:
        person.page.locator('a[data-part="download"][aria-disabled="false"]').wait_for()
    person.page.locator('[data-part="instant"]').check()
    hands = Hands(person)
    job.do(hands)
    lefts = []
    for scene in scenes:
        if len(scenes) > 1:
            button = person.page.locator(f'[data-part="strip-list"] button[title="{scene.name}"]')
            button.click()
            button.and_(person.page.locator('[aria-current="true"]')).wait_for()
            person.page.wait_for_function("document.querySelectorAll('.fft-patch').length === 1")
        with server.client as client:
            answer = client.get(f"/api/v1/images/{person.rounds[-1]['image_id']}?format=png", timeout=300)
        lefts.append(error_left(scene, Image.open(io.BytesIO(answer.content))))
    person.page.mouse.move(2, 2)
    save_picture(job, hands.before, person.page.screenshot())
    person.close()
    person.context.close()
    return hands, lefts


def picture_name(job: Job) -> str:
    return f"{job.name.lower().replace(' ', '-')}.webp"


def save_picture(job: Job, *shots: bytes) -> None:
    """Keep what the page looked like before and after, side by side."""
    both = []
    for shot in shots:
        image = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))
        size = (SHOT_PX, round(SHOT_PX * image.shape[0] / image.shape[1]))
        both.append(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    gap = np.full((both[0].shape[0], 6, 3), 255, np.uint8)
    PICTURES.mkdir(exist_ok=True)
    Image.fromarray(np.concatenate([both[0], gap, both[1]], axis=1)).save(
        PICTURES / picture_name(job), quality=72, method=6
    )


def main() -> int:
    """Do all jobs, write the table; 0 when each is done and none takes more actions than in IOPaint."""
    rows, failed, fewer, fewer_to_file = [], [], 0, 0
    with tempfile.TemporaryDirectory(prefix="fftlama-jobs-") as folder, launch_chromium() as browser:
        server = RunningServer(Path(folder), kind="real").start()
        try:
            for job in JOBS:
                files_before = len(list(server.outputs_dir.glob("*")))
                hands, lefts = carry_out(job, server, browser)
                count = len(hands.actions)
                files = len(list(server.outputs_dir.glob("*"))) - files_before
                # What was not written by itself has to be downloaded.
                here, there = count + max(0, len(lefts) - files), job.iopaint + len(lefts)
                fewer_to_file += here < there
                fewer += count < job.iopaint
                known = [left for left in lefts if left is not None]
                if count > job.iopaint or any(left > LEFT_BAR for left in known):
                    failed.append(job.name)
                how = ", ".join(dict.fromkeys(f"{hands.actions.count(a)} x {a}" for a in hands.actions))
                left = ", ".join(f"{100 * left:.0f} %" for left in known) or "not known"
                rows.append(f"| {job.name} | {count}: {how} | {job.iopaint}: {job.why} | {here}, {there} | {left} |")
                print(rows[-1], flush=True)
        finally:
            server.stop()
    (DOCS / "jobs.md").write_text(document(rows, fewer, fewer_to_file), encoding="utf-8")
    print(f"fewer in {fewer}; failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


def document(rows: list[str], fewer: int, fewer_to_file: int) -> str:
    """Return docs/jobs.md."""
    end = (
        f"Fewer in {fewer} of {len(rows)}, more in none. Where one stroke covers the thing, both take one stroke.\n\n"
        f"To the file it is fewer in {fewer_to_file}, where the program runs on one's own machine. Where it does not,\n"
        "both take a download for each photo, and it is fewer in as many as to the picture."
    )
    pictures = [f"## {job.name}\n\n![{job.name}, before and after](jobs/{picture_name(job)})" for job in JOBS]
    credit = (
        "Photos: 18F / GSA (public domain, CC0 1.0), FaunaMap contributors (CC0 1.0), Buddies of Budgie contributors "
        "(CC0 1.0);\nsources in web/static/samples/CREDITS.md and tests/data/CREDITS.md. The marks are drawn."
    )
    return "\n".join([HEAD, *rows, "", end, "", "\n\n".join(pictures), "", credit, ""])


if __name__ == "__main__":
    sys.exit(main())
