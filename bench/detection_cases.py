"""Photos with text and marks drawn on them whose true mask is known: every pixel that the drawing changed.

Everything is drawn at four times the size and scaled down, so that edges are as soft as a renderer's. All from a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

CHANGED_LEVELS = 3  # a pixel that no channel of moved by more looks as before
LATIN_FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf")
CHINESE_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSerifCJK-Bold.ttc", "wqy-microhei.ttc", "wqy-zenhei.ttc")
LATIN = (
    "Sample Photo",
    "Sunset at the pier, 2019",
    "All rights reserved",
    "www.example.org",
    "PREVIEW ONLY",
    "Hello from home",
)
CHINESE = ("样张预览 请勿转载", "夏日海边的黄昏", "版权所有", "我们的旅行日记", "示例图片", "欢迎来到北京")
SEGMENTS = {
    "0": "abcdef", "1": "bc", "2": "abged", "3": "abgcd", "4": "fgbc", "5": "afgcd", "6": "afgedc", "7": "abc",
    "8": "abcdefg", "9": "abcdfg",
}  # fmt: skip
BARS = {
    "a": ((0, 0), (1, 0)), "b": ((1, 0), (1, 1)), "c": ((1, 1), (1, 2)), "d": ((0, 2), (1, 2)),
    "e": ((0, 1), (0, 2)), "f": ((0, 0), (0, 1)), "g": ((0, 1), (1, 1)),
}  # fmt: skip
SUPERSAMPLE = 4

Random = np.random.Generator
Alpha = NDArray[Any]  # float32, 0 to 1


@dataclass(frozen=True)
class Case:
    """A photo with something drawn on it.

    Attributes:
        kind: what was drawn.
        image: (H, W, 3) uint8.
        mask: (H, W) bool, every pixel that changed visibly.
        template: (H, W) bool, one of several equal marks, for "find the same again"; else None.
    """

    kind: str
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    template: NDArray[np.bool_] | None = None


def font_file(names: tuple[str, ...]) -> list[Path]:
    """Return those of these fonts that are installed."""
    return [path for name in names for path in sorted(Path("/usr/share/fonts").rglob(name))]


@cache
def _font(path: Path, size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size_px)


def write(text: str, font: Path, height_px: float, *, outline_px: float = 0.0) -> tuple[Alpha, Alpha]:
    """Return (fill, fill with outline), (h, w) float32 alpha, of one line of text."""
    size, stroke = round(height_px * SUPERSAMPLE), round(outline_px * SUPERSAMPLE)
    face = _font(font, size)
    left, top, right, bottom = face.getbbox(text, stroke_width=stroke)
    pad = SUPERSAMPLE * 2
    canvas = (int(right - left) + 2 * pad, int(bottom - top) + 2 * pad)
    layers = []
    for width in (0, stroke):
        picture = Image.new("L", canvas, 0)
        ImageDraw.Draw(picture).text((pad - left, pad - top), text, 255, font=face, stroke_width=width)
        small = picture.resize((canvas[0] // SUPERSAMPLE, canvas[1] // SUPERSAMPLE), Image.Resampling.BOX)
        layers.append(np.asarray(small, np.float32) / 255)
    return layers[0], layers[1]


def rotate(alpha: Alpha, degrees: float, scale: float = 1.0) -> Alpha:
    """Return the alpha rotated, on a canvas that holds it."""
    height, width = alpha.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, scale)
    cos, sin = abs(turn[0, 0]), abs(turn[0, 1])
    new_w, new_h = int(height * sin + width * cos) + 2, int(height * cos + width * sin) + 2
    turn[:, 2] += (new_w / 2 - width / 2, new_h / 2 - height / 2)
    return cv2.warpAffine(alpha, turn, (new_w, new_h), flags=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def lay(
    image: NDArray[np.float32], alpha: Alpha, x: int, y: int, color: tuple[float, ...], opacity: float = 1.0
) -> None:
    """Blend a colour into a float32 image in place where alpha says, cut at the edges."""
    height, width = image.shape[:2]
    top, left = max(0, y), max(0, x)
    bottom, right = min(height, y + alpha.shape[0]), min(width, x + alpha.shape[1])
    if top >= bottom or left >= right:
        return
    part = alpha[top - y : bottom - y, left - x : right - x, None] * opacity
    place = image[top:bottom, left:right]
    place += part * (np.asarray(color, np.float32) - place)


def _case(kind: str, before: NDArray[np.uint8], drawn: NDArray[np.float32], template: NDArray | None = None) -> Case:
    image = drawn.round().clip(0, 255).astype(np.uint8)
    changed = np.abs(image.astype(np.int16) - before).max(axis=2) > CHANGED_LEVELS
    return Case(kind, image, changed, template)


def caption(photo: NDArray[np.uint8], rng: Random, texts: tuple[str, ...], fonts: list[Path], kind: str) -> Case:
    """A line of text near the bottom: white, black or coloured, half of them with an outline or a shadow."""
    height, width = photo.shape[:2]
    drawn = photo.astype(np.float32)
    text = texts[rng.integers(len(texts))]
    size = float(rng.uniform(0.04, 0.09)) * min(height, width)
    style = ("plain", "outline", "shadow")[rng.integers(3)]
    fill, full = write(text, fonts[rng.integers(len(fonts))], size, outline_px=size / 12 if style == "outline" else 0)
    angle = float(rng.choice([0.0, 0.0, 0.0, 12.0, -25.0]))
    fill, full = rotate(fill, angle), rotate(full, angle)
    colors = ((250, 250, 250), (15, 15, 15), (250, 220, 40), (220, 40, 40))
    color = colors[rng.integers(len(colors))]
    x = int(rng.uniform(0, max(1, width - fill.shape[1])))
    y = int(rng.uniform(0.6, 1.0) * max(1, height - fill.shape[0]))
    if style == "outline":
        lay(drawn, full, x, y, (10, 10, 10) if sum(color) > 300 else (245, 245, 245))
    if style == "shadow":
        away = max(1, round(size / 14))
        lay(drawn, cv2.GaussianBlur(fill, (0, 0), max(0.5, size / 40)), x + away, y + away, (0, 0, 0), 0.6)
    lay(drawn, fill, x, y, color)
    return _case(kind, photo, drawn)


def date_stamp(photo: NDArray[np.uint8], rng: Random) -> Case:
    """An orange seven-segment date in the lower right corner, glowing a little, as compact cameras burnt it in."""
    height, width = photo.shape[:2]
    drawn = photo.astype(np.float32)
    size = float(rng.uniform(0.025, 0.045)) * min(height, width)
    text = f"{rng.integers(1, 13):2d} {rng.integers(1, 29):2d} '{rng.integers(90, 100)}"
    unit = size * SUPERSAMPLE / 2
    canvas = np.zeros((round(unit * 2.8), round(unit * 1.7 * len(text) + unit)), np.uint8)
    for i, letter in enumerate(text):
        x0, y0 = unit * (0.5 + 1.7 * i), unit * 0.4
        if letter == "'":
            cv2.line(
                canvas,
                (round(x0 + unit / 2), round(y0)),
                (round(x0 + unit / 2), round(y0 + unit / 2)),
                255,
                round(unit / 4),
            )
        for bar in SEGMENTS.get(letter, ""):
            (ax, ay), (bx, by) = BARS[bar]
            gap = 0.12 * unit
            a = (round(x0 + ax * unit + gap * (bx > ax)), round(y0 + ay * unit + gap * (by > ay)))
            b = (round(x0 + bx * unit - gap * (bx > ax)), round(y0 + by * unit - gap * (by > ay)))
            cv2.line(canvas, a, b, 255, max(1, round(unit / 4)))
    alpha = cv2.resize(canvas, None, fx=1 / SUPERSAMPLE, fy=1 / SUPERSAMPLE, interpolation=cv2.INTER_AREA) / np.float32(
        255
    )
    x, y = round(width * 0.95) - alpha.shape[1], round(height * 0.95) - alpha.shape[0]
    lay(drawn, cv2.GaussianBlur(alpha, (0, 0), size / 12), x, y, (255, 90, 20), 0.5)
    lay(drawn, alpha, x, y, (255, 150, 40), 0.95)
    return _case("date stamp", photo, drawn)


def tiled(photo: NDArray[np.uint8], rng: Random, texts: tuple[str, ...], fonts: list[Path], opacity: float) -> Case:
    """A watermark in rows all over the photo, rotated, every other row shifted."""
    height, width = photo.shape[:2]
    drawn = photo.astype(np.float32)
    size = float(rng.uniform(0.04, 0.07)) * min(height, width)
    fill, _ = write(texts[rng.integers(len(texts))], fonts[rng.integers(len(fonts))], size)
    angle = float(rng.choice([0.0, 30.0, 45.0, -20.0]))
    mark = rotate(fill, angle)
    step_x, step_y = round(mark.shape[1] * 1.15), round(mark.shape[0] + 2.0 * size)
    color = (255, 255, 255) if rng.random() < 0.7 else (20, 20, 20)
    start = int(rng.integers(step_x)), int(rng.integers(step_y))
    for row, y in enumerate(range(-start[1], height, step_y)):
        for x in range(-start[0] - (row % 2) * (step_x // 2), width, step_x):
            lay(drawn, mark, x, y, color, opacity)
    return _case(f"tiled watermark {round(opacity * 100)} %", photo, drawn)


def draw_logo(rng: Random, size_px: int) -> tuple[Alpha, Alpha]:
    """(ground, figure) alpha of a logo without letters: a ring or a shield with a polygon and two dots in it."""
    side = size_px * SUPERSAMPLE
    ground, figure = np.zeros((side, side), np.uint8), np.zeros((side, side), np.uint8)
    middle = (side // 2, side // 2)
    cv2.circle(ground, middle, round(side * 0.46), 255, -1)
    corners = int(rng.integers(3, 8))
    turn = rng.uniform(0, 2 * np.pi)
    angles = turn + np.arange(2 * corners) * np.pi / corners
    radii = np.where(np.arange(2 * corners) % 2, rng.uniform(0.12, 0.2), rng.uniform(0.28, 0.4)) * side
    star = np.stack([middle[0] + radii * np.cos(angles), middle[1] + radii * np.sin(angles)], 1)
    cv2.fillPoly(figure, [star.round().astype(np.int32)], 255)
    cv2.circle(figure, (round(side * 0.8), round(side * 0.3)), round(side * 0.05), 255, -1)
    small = [
        cv2.resize(a, (size_px, size_px), interpolation=cv2.INTER_AREA) / np.float32(255) for a in (ground, figure)
    ]
    return small[0], small[1]


def logos(photo: NDArray[np.uint8], rng: Random, *, opacity: float = 0.8, varied: bool = False) -> Case:
    """The same logo at four places; `varied`: three of them at other sizes (0.7 to 1.4) and turned (to 20 degrees)."""
    height, width = photo.shape[:2]
    drawn, first = photo.astype(np.float32), None
    side = round(float(rng.uniform(0.09, 0.14)) * min(height, width))
    ground, figure = draw_logo(rng, side)
    colors = ((245, 245, 245), (30, 60, 160)) if rng.random() < 0.5 else ((200, 30, 40), (250, 240, 220))
    for i in range(4):
        angle, scale = (
            (0.0, 1.0) if i == 0 or not varied else (float(rng.uniform(-20, 20)), float(rng.uniform(0.7, 1.4)))
        )
        a, b = (rotate(layer, angle, scale) for layer in (ground, figure))
        cell_w, cell_h = width // 2, height // 2
        x = (i % 2) * cell_w + int(rng.integers(max(1, cell_w - a.shape[1])))
        y = (i // 2) * cell_h + int(rng.integers(max(1, cell_h - a.shape[0])))
        lay(drawn, a, x, y, colors[0], opacity)
        lay(drawn, b, x, y, colors[1], opacity)
        if i == 0:
            first = _case("", photo, drawn.copy()).mask
    return _case("logo, varied" if varied else "logo", photo, drawn, first)


def sign(photo: NDArray[np.uint8], rng: Random, texts: tuple[str, ...], fonts: list[Path]) -> Case:
    """A sign in the scene: a board in perspective, lit and noisy as the photo is; the truth is its letters alone."""
    height, width = photo.shape[:2]
    size = 0.07 * min(height, width)
    fill, _ = write(texts[rng.integers(len(texts))][:12], fonts[rng.integers(len(fonts))], size)
    pad = round(size * 0.6)
    fill = np.pad(fill, pad)
    board_color, ink = [
        ((40, 70, 120), (235, 235, 225)),
        ((225, 220, 200), (40, 35, 30)),
        ((30, 90, 50), (240, 240, 230)),
    ][rng.integers(3)]
    h, w = fill.shape
    shift = rng.uniform(-0.18, 0.18, (4, 2)) * (h * 1.5, h)
    x0, y0 = rng.uniform(0, max(1, width - w)), rng.uniform(0.2, 0.7) * max(1, height - h)
    source = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float32)
    warp = cv2.getPerspectiveTransform(source, (source + shift + (x0, y0)).astype(np.float32))
    boards, letters = (cv2.warpPerspective(a, warp, (width, height)) for a in (np.ones_like(fill), fill))
    light = np.linspace(0.75, 1.1, width, dtype=np.float32)[None, :, None]
    drawn = photo.astype(np.float32)
    without = drawn + boards[..., None] * (np.asarray(board_color, np.float32) * light - drawn)
    drawn = without + letters[..., None] * (np.asarray(ink, np.float32) * light - without)
    noise = rng.normal(0, 3, drawn.shape).astype(np.float32) * boards[..., None]
    soft = cv2.GaussianBlur(drawn, (0, 0), 0.7) * boards[..., None] + drawn * (1 - boards[..., None]) + noise
    return Case("sign in the scene", soft.round().clip(0, 255).astype(np.uint8), letters > 0.05)


def dirt(photo: NDArray[np.uint8], rng: Random) -> Case:
    """What a scan has: 25 specks and three hairs, all light or all dark, of up to 1 % of the shorter side."""
    height, width = photo.shape[:2]
    shorter = min(height, width)
    canvas = np.zeros((height * SUPERSAMPLE, width * SUPERSAMPLE), np.uint8)
    for _ in range(25):
        place = rng.uniform(0.03, 0.97, 2) * (width, height) * SUPERSAMPLE
        radius = rng.uniform(0.0015, 0.005) * shorter * SUPERSAMPLE
        axes = (max(1, round(radius)), max(1, round(radius * rng.uniform(0.5, 1))))
        cv2.ellipse(canvas, (round(place[0]), round(place[1])), axes, rng.uniform(0, 180), 0, 360, 255, -1)
    for _ in range(3):
        place, angle, line = rng.uniform(0.1, 0.9, 2) * (width, height), rng.uniform(0, np.pi), []
        for _ in range(12):
            line.append(place * SUPERSAMPLE)
            angle += rng.normal(0, 0.12)
            place = place + np.array([np.cos(angle), np.sin(angle)]) * 0.03 * shorter
        thick = max(1, round(0.0025 * shorter * SUPERSAMPLE))
        cv2.polylines(canvas, [np.array(line).round().astype(np.int32)], False, 255, thick)
    alpha = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA) / np.float32(255)
    drawn = photo.astype(np.float32)
    lay(drawn, alpha, 0, 0, (245, 243, 235) if rng.random() < 0.5 else (25, 22, 20), float(rng.uniform(0.75, 0.95)))
    return _case("dust and hairs", photo, drawn)


def all_kinds() -> dict[str, Callable[[NDArray[np.uint8], Random], Case]]:
    """Return how to draw each kind that text is found in."""
    latin, chinese = font_file(LATIN_FONTS), font_file(CHINESE_FONTS)
    if not latin or not chinese:
        raise SystemExit(
            "bench/detection.py draws with DejaVu and Noto CJK: apt-get install fonts-dejavu fonts-noto-cjk"
        )

    def either(rng: Random) -> tuple[tuple[str, ...], list[Path]]:
        return (LATIN, latin) if rng.random() < 0.5 else (CHINESE, chinese)

    def tiled_at(opacity: float) -> Callable[[NDArray[np.uint8], Random], Case]:
        return lambda photo, rng: tiled(photo, rng, *either(rng), opacity)

    return {
        "caption, Latin": lambda photo, rng: caption(photo, rng, LATIN, latin, "caption, Latin"),
        "caption, Chinese": lambda photo, rng: caption(photo, rng, CHINESE, chinese, "caption, Chinese"),
        "date stamp": date_stamp,
        **{f"tiled watermark {percent} %": tiled_at(percent / 100) for percent in (60, 40, 20)},
        "sign in the scene": lambda photo, rng: sign(photo, rng, *either(rng)),
    }
