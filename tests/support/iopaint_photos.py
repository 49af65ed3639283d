"""Photos of twenty kinds, all of one picture, and what IOPaint's route gives back: format and Pillow's mode."""

from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

from tests.support.iopaint_clients import file_of, picture


def deep_png() -> bytes:
    pixels = np.asarray(picture()).astype(np.uint16) * 257 + 3
    return bytes(cv2.imencode(".png", pixels[..., ::-1])[1])


def turned_jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right to see it upright
    exif[0x010F] = "Maker"
    return file_of(picture().transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)


PHOTOS: dict[str, tuple[Callable[[], bytes], str, str]] = {  # file, format of the answer, mode of the answer
    "png": (lambda: file_of(picture()), "PNG", "RGB"),
    "png with alpha": (lambda: file_of(picture("RGBA")), "PNG", "RGBA"),
    "png palette": (lambda: file_of(picture().quantize(64)), "PNG", "RGB"),
    "png grey": (lambda: file_of(picture("L")), "PNG", "L"),
    "png 16 bit": (deep_png, "PNG", "RGB"),
    "jpeg": (lambda: file_of(picture(), "JPEG"), "JPEG", "RGB"),
    "jpeg cmyk": (lambda: file_of(picture("CMYK"), "JPEG"), "JPEG", "CMYK"),
    "jpeg turned by exif": (turned_jpeg, "JPEG", "RGB"),
    "webp": (lambda: file_of(picture(), "WEBP"), "WEBP", "RGB"),
    "tiff": (lambda: file_of(picture(), "TIFF"), "TIFF", "RGB"),
    "bmp": (lambda: file_of(picture(), "BMP"), "BMP", "RGB"),
    "gif": (lambda: file_of(picture(), "GIF"), "GIF", "P"),
    "avif": (lambda: file_of(picture(), "AVIF"), "AVIF", "RGB"),
    "png grey with alpha": (lambda: file_of(picture("LA")), "PNG", "LA"),
    "png 1 bit": (lambda: file_of(picture("1")), "PNG", "L"),
    "jpeg grey": (lambda: file_of(picture("L"), "JPEG"), "JPEG", "L"),
    "jpeg progressive": (lambda: file_of(picture(), "JPEG", progressive=True), "JPEG", "RGB"),
    "webp with alpha": (lambda: file_of(picture("RGBA"), "WEBP", lossless=True), "WEBP", "RGBA"),
    "tiff cmyk": (lambda: file_of(picture("CMYK"), "TIFF"), "TIFF", "CMYK"),
    "tiff with alpha": (lambda: file_of(picture("RGBA"), "TIFF"), "TIFF", "RGBA"),
}
