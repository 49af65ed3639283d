"""AVIF where Pillow does not do: EXIF is kept out of its hands as a file is written, and hidden where it is damaged.

Bytes in, bytes out; no box changes its place. Source of the boxes: ISO/IEC 14496-12, 8.11.6 (the list of items).
"""

import re
import struct

# The entry of the EXIF in the list of items: version 2 or 3, flags, the item's number, no protection, and its type.
EXIF_ITEM = re.compile(rb"infe(?:\x02\0\0[\0\x01]..|\x03\0\0[\0\x01]....)\0\0(Exif)", re.DOTALL)
UNKNOWN_TYPE = b"none"


def without_exif(data: bytes) -> bytes:
    """Return a file in which no reader finds EXIF; of the same size, the very same bytes where there is none.

    The decoder refuses a sound picture for its EXIF: libavif for one that is no TIFF block, Pillow for one whose values
    it can't pack anew. Browsers show it.
    """
    hidden = bytearray(data)
    for item in EXIF_ITEM.finditer(data):
        hidden[item.start(1) : item.end(1)] = UNKNOWN_TYPE
    return bytes(hidden)


def stand_in_for(exif: bytes) -> bytes:
    """Return an empty EXIF block of the same size, to be replaced in the file that Pillow has written.

    Pillow takes the orientation out and packs the rest anew, by which makers' notes break, and ends at damaged values.
    """
    return (b"II*\0" + struct.pack("<IHI", 8, 0, 0)).ljust(len(exif), b"\0")[: len(exif)]
