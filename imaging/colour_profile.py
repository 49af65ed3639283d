"""An ICC profile for colours that a file tells by numbers: the ways of PNG (gAMA with cHRM, cICP) and of AVIF.

Patches and previews carry it, so that browsers show them as they show the file. Not for the curves of HDR (PQ and HLG),
which an ICC profile of this kind does not have. Sources: ITU-T H.273 (the numbers), ICC.1:2010 (profiles of version 4),
PNG, third edition, 13.14 (which of its ways counts).
"""

import struct

import numpy as np

D50 = (0.9642, 1.0, 0.8249)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
D65 = (0.3127, 0.329)
PRIMARIES = {
    1: (*D65, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06), 5: (*D65, 0.64, 0.33, 0.29, 0.6, 0.15, 0.06),
    6: (*D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07), 9: (*D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    12: (*D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
}  # fmt: skip
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
SRGB_CODE, SRGB_CURVE_CODE = (1, 13), 13
VIDEO_CURVES = (1, 6, 14, 15)  # all the same: BT.709, shown by a power of 2.4 (BT.1886)
POWERS = {4: 2.2, 5: 2.8, 8: 1.0} | dict.fromkeys(VIDEO_CURVES, 2.4)


def photo_code(code: tuple[int, int]) -> tuple[int, int]:
    """Return an AVIF's or HEIC's numbers as they are meant: of a photo, browsers take the curve of video for sRGB's."""
    colours, curve = code
    return (colours, SRGB_CURVE_CODE) if curve in VIDEO_CURVES else code


def profile_of_code(code: tuple[int, int]) -> bytes | None:
    """Return the profile for the numbers of primaries and curve; None for those of sRGB, and for those not known."""
    colours, curve = code
    if code == SRGB_CODE or colours not in PRIMARIES:
        return None
    if curve == SRGB_CURVE_CODE:
        return _profile(PRIMARIES[colours], SRGB_CURVE)
    return _profile(PRIMARIES[colours], _power(POWERS[curve])) if curve in POWERS else None


def profile_of_png(chunks: tuple[tuple[bytes, bytes], ...]) -> bytes | None:
    """Return the profile that a PNG's chunks stand for, as browsers understand them.

    Args:
        chunks: (type, payload).

    Returns:
        The profile; None for sRGB, and where only an ICC profile of the file's own counts.
    """
    told = dict(reversed(chunks))
    if len(code := told.get(b"cICP", b"")) == 4:
        return profile_of_code((code[0], code[1]))
    gamma, primaries = told.get(b"gAMA", b""), told.get(b"cHRM", b"")
    if b"iCCP" in told or b"sRGB" in told or len(gamma) != 4 or not any(gamma):
        return None
    exponent = 100_000 / struct.unpack(">I", gamma)[0]
    if len(primaries) != 32:
        return _profile(PRIMARIES[SRGB_CODE[0]], _power(exponent))
    return _profile(tuple(value / 100_000 for value in struct.unpack(">8I", primaries)), _power(exponent))


def _power(exponent: float) -> tuple[float, ...]:
    return (exponent, 1.0, 0.0, 0.0, 0.0)


def _profile(places: tuple[float, ...], curve: tuple[float, ...]) -> bytes | None:
    """Return the profile of primaries, (x, y) of white, red, green and blue, and of g, a, b, c, d; None for nonsense.

    The curve is (a v + b) ** g from d on, and c v below.
    """
    try:
        white, *colours = (
            np.array([x / y, 1, (1 - x - y) / y]) for x, y in zip(places[::2], places[1::2], strict=True)
        )
        columns = np.array(colours).T
        matrix = columns * np.linalg.solve(columns, white)
        cone = np.diag(BRADFORD @ D50 / (BRADFORD @ white))
        adaptation = np.linalg.solve(BRADFORD, cone @ BRADFORD)
        red, green, blue = (adaptation @ matrix).T
        trc = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _fixed(curve)
        return _packed(
            {
                b"desc": _text("the photo's colours"), b"cprt": _text("none"), b"wtpt": _xyz(D50),
                b"chad": b"sf32" + bytes(4) + _fixed(adaptation.ravel()), b"rXYZ": _xyz(red), b"gXYZ": _xyz(green),
                b"bXYZ": _xyz(blue), b"rTRC": trc, b"gTRC": trc, b"bTRC": trc,
            }
        )  # fmt: skip
    except (ZeroDivisionError, np.linalg.LinAlgError, struct.error, OverflowError, ValueError):
        return None


def _packed(tags: dict[bytes, bytes]) -> bytes:
    table, body = struct.pack(">I", len(tags)), b""
    body_at = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", body_at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(">I4xI4s4s4s", body_at + len(body), 0x04300000, b"mntr", b"RGB ", b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + _fixed(D50)
    return header.ljust(128, b"\0") + table + body


def _fixed(values: "tuple[float, ...] | np.ndarray") -> bytes:
    return struct.pack(f">{len(values)}i", *(round(float(value) * 65536) for value in values))


def _xyz(values: "tuple[float, ...] | np.ndarray") -> bytes:
    return b"XYZ " + bytes(4) + _fixed(values)


def _text(text: str) -> bytes:
    data = text.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(data), 28) + data
