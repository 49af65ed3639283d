"""Own the overlays people want gone: text, logos, wires and spots drawn onto a clean photo with antialiasing.

`draw_overlay` is deterministic: the same photo, kind and seed give the same pixels. Shapes are drawn at three times the
photo's size and averaged down, so every rim has the partial alpha that a real watermark has and that a mask of
alpha > 0.5 misses. Images are (H, W, 3) uint8 RGB. Uses only the font that comes with Pillow, so that no machine draws
another picture. Knows nothing of masks in files or of figures.
"""

import io
import math
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

OVERLAY_KINDS = ("text", "logo", "wires", "spots")
JPEG_QUALITY = 85
MASK_ALPHA = 0.5
SUPERSAMPLE = 3
SENTENCES = (
    "SAMPLE",
    "PREVIEW ONLY",
    "www.example.com",
    "Proof copy 2024",
    "Studio North",
    "DRAFT No. 17",
    "Holiday album",
    "Do not copy",
)
TEXT_COLOURS = ((255, 255, 255), (250, 245, 230), (255, 230, 60), (20, 20, 20), (215, 40, 40))
LOGO_COLOURS = ((255, 255, 255), (30, 90, 200), (220, 50, 40), (20, 130, 80), (15, 15, 15))
WIRE_COLOURS = ((25, 25, 28), (60, 55, 50), (90, 90, 95))
SPOT_COLOURS = ((70, 45, 35), (40, 40, 40), (235, 235, 225), (150, 70, 60))

# A layer is what is drawn in one colour: coverage 0 to 255 at SUPERSAMPLE times the photo's size, colour, opacity.
Layer = tuple[Image.Image, tuple[int, int, int], float]


def overlay_seed(photo: str, kind: str) -> int:
    """Return the seed of a photo's overlay: the same on every machine and for every list of photos."""
    return zlib.crc32(f"{photo}/{kind}".encode())


def draw_overlay(clean: np.ndarray, kind: str, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one kind of overlay onto a photo.

    Args:
        clean: (H, W, 3) uint8 RGB, not modified.
        kind: one of OVERLAY_KINDS.
        seed: picks places, sizes, colours and words.

    Returns:
        The photo with the overlay, (H, W, 3) uint8, before any JPEG; and alpha, (H, W) float32 in [0, 1].
    """
    height, width = clean.shape[:2]
    layers = _PAINTERS[kind](np.random.default_rng(seed), width * SUPERSAMPLE, height * SUPERSAMPLE)
    picture = clean.astype(np.float32)
    seen_through = np.ones((height, width), np.float32)
    for coverage, colour, opacity in layers:
        alpha = np.asarray(coverage.reduce(SUPERSAMPLE), np.float32) * (opacity / 255.0)
        picture += alpha[:, :, None] * (np.asarray(colour, np.float32) - picture)
        seen_through *= 1.0 - alpha
    return np.rint(picture).astype(np.uint8), 1.0 - seen_through


def jpeg_round_trip(image: np.ndarray, *, quality: int = JPEG_QUALITY) -> np.ndarray:
    """Return the image as it reads after being saved as JPEG (4:2:0, as cameras and sites save it)."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(file) as saved:
        return np.asarray(saved.convert("RGB"))


def _blank(width: int, height: int) -> Image.Image:
    return Image.new("L", (width, height), 0)


def _pick(rng: np.random.Generator, colours: tuple[tuple[int, int, int], ...]) -> tuple[int, int, int]:
    return colours[int(rng.integers(len(colours)))]


def _text(rng: np.random.Generator, width: int, height: int) -> list[Layer]:
    """Two to four lines, some slanted, half of them with a soft shadow of too little alpha for the mask."""
    layers: list[Layer] = []
    short = min(width, height)
    for _ in range(int(rng.integers(2, 5))):
        font = ImageFont.load_default(size=short * float(rng.uniform(0.03, 0.09)))
        sentence = SENTENCES[int(rng.integers(len(SENTENCES)))]
        left, top, right, bottom = (int(v) for v in font.getbbox(sentence))
        line = _blank(right - left + 4, bottom - top + 4)
        ImageDraw.Draw(line).text((2 - left, 2 - top), sentence, fill=255, font=font)
        angle = float(rng.choice((0.0, 0.0, rng.uniform(-35, 35))))
        line = line.rotate(angle, Image.Resampling.BICUBIC, expand=True)
        coverage = _blank(width, height)
        place = (
            int(rng.uniform(0.02, 0.98) * max(1, width - line.width)),
            int(rng.uniform(0.02, 0.98) * max(1, height - line.height)),
        )
        coverage.paste(line, place)
        if rng.random() < 0.5:
            shifted = _blank(width, height)
            offset_px = 2 * SUPERSAMPLE
            shifted.paste(line, (place[0] + offset_px, place[1] + offset_px))
            layers.append((shifted.filter(ImageFilter.GaussianBlur(1.5 * SUPERSAMPLE)), (0, 0, 0), 0.4))
        layers.append((coverage, _pick(rng, TEXT_COLOURS), float(rng.uniform(0.7, 1.0))))
    return layers


def _logo(rng: np.random.Generator, width: int, height: int) -> list[Layer]:
    """One or two emblems: a ring, a star inside it, initials below."""
    layers: list[Layer] = []
    short = min(width, height)
    for _ in range(int(rng.integers(1, 3))):
        radius = short * float(rng.uniform(0.06, 0.12))
        x = float(rng.uniform(1.3 * radius, width - 1.3 * radius))
        y = float(rng.uniform(1.3 * radius, height - 1.9 * radius))
        coverage = _blank(width, height)
        draw = ImageDraw.Draw(coverage)
        ring_width = max(SUPERSAMPLE, round(radius * float(rng.uniform(0.08, 0.2))))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=255, width=ring_width)
        points = int(rng.integers(3, 8))
        turn = float(rng.uniform(0, 2 * math.pi))
        star = [
            (
                x + radius * (0.65 if k % 2 == 0 else 0.3) * math.cos(turn + math.pi * k / points),
                y + radius * (0.65 if k % 2 == 0 else 0.3) * math.sin(turn + math.pi * k / points),
            )
            for k in range(2 * points)
        ]
        draw.polygon(star, fill=255)
        initials = "".join(chr(ord("A") + int(rng.integers(26))) for _ in range(3))
        draw.text(
            (x, y + 1.1 * radius), initials, fill=255, font=ImageFont.load_default(size=0.55 * radius), anchor="mt"
        )
        layers.append((coverage, _pick(rng, LOGO_COLOURS), float(rng.uniform(0.65, 1.0))))
    return layers


def _wires(rng: np.random.Generator, width: int, height: int) -> list[Layer]:
    """Two to four sagging wires from edge to edge, 1.5 to 5 px thick on a short side of 512."""
    layers: list[Layer] = []
    short = min(width, height)
    for _ in range(int(rng.integers(2, 5))):
        start, end = rng.uniform(0.05, 0.8, 2) * height
        sag = float(rng.uniform(0.02, 0.15)) * height
        t = np.linspace(0.0, 1.0, 65)
        heights = start + (end - start) * t + sag * 4 * t * (1 - t)
        thickness = max(SUPERSAMPLE, round(short * float(rng.uniform(1.5, 5.0)) / 512))
        coverage = _blank(width, height)
        line = [(float(x), float(y)) for x, y in zip(t * width, heights, strict=True)]
        ImageDraw.Draw(coverage).line(line, fill=255, width=thickness, joint="curve")
        layers.append((coverage, _pick(rng, WIRE_COLOURS), float(rng.uniform(0.85, 1.0))))
    return layers


def _spots(rng: np.random.Generator, width: int, height: int) -> list[Layer]:
    """Eight to twenty-four dust spots and blemishes with soft rims."""
    short = min(width, height)
    layers: list[Layer] = []
    for colour in (_pick(rng, SPOT_COLOURS), _pick(rng, SPOT_COLOURS)):
        coverage = _blank(width, height)
        draw = ImageDraw.Draw(coverage)
        for _ in range(int(rng.integers(4, 13))):
            x, y = float(rng.uniform(0.03, 0.97)) * width, float(rng.uniform(0.03, 0.97)) * height
            radius_x = short * float(rng.uniform(0.006, 0.02))
            radius_y = radius_x * float(rng.uniform(0.6, 1.4))
            draw.ellipse((x - radius_x, y - radius_y, x + radius_x, y + radius_y), fill=255)
        soft = coverage.filter(ImageFilter.GaussianBlur(short * 0.002))
        layers.append((soft, colour, float(rng.uniform(0.75, 1.0))))
    return layers


_PAINTERS: dict[str, Callable[[np.random.Generator, int, int], list[Layer]]] = {
    "text": _text,
    "logo": _logo,
    "wires": _wires,
    "spots": _spots,
}
