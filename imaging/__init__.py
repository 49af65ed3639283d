"""Files to arrays and back, and strokes to masks: the only room that knows about file formats.

Images are (H, W, 3) uint8 or uint16 RGB, upright; masks (H, W) bool, True = hole. Nothing here knows torch, HTTP or
jobs, nothing global is changed, and every function may be called from several threads at once.
"""

from imaging.errors import ImagingError
from imaging.formats import FORMATS, FileFormat, format_of_name
from imaging.masks import read_mask
from imaging.photo import Encoded, Photo
from imaging.png import decode_png, encode_png
from imaging.reading import open_photo
from imaging.strokes import Polygon, Stroke, parse_strokes, rasterize
from imaging.writing import check_size, encode_photo, encode_preview, shown_profile

__all__ = [
    "FORMATS",
    "Encoded",
    "FileFormat",
    "ImagingError",
    "Photo",
    "Polygon",
    "Stroke",
    "check_size",
    "decode_png",
    "encode_photo",
    "encode_png",
    "encode_preview",
    "format_of_name",
    "open_photo",
    "parse_strokes",
    "rasterize",
    "read_mask",
    "shown_profile",
]
