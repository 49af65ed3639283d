"""A file that a client wrote into a text: a data URL or bare base64. Knows no pictures and no HTTP."""

import base64
import binascii
import re

import numpy as np

from jobs.errors import JobError

DATA_URL = re.compile("data:", re.IGNORECASE)
BASE64_MARK = re.compile(";base64,", re.IGNORECASE)
LONGEST_SCHEME = 1000  # characters of a data URL before its data
ADDRESS_LETTERS = str.maketrans("-_", "+/")
PIECE_BYTES = 1 << 20
NO_DIGIT = 16
HEX_DIGITS = np.full(256, NO_DIGIT, np.uint8)
HEX_DIGITS[np.frombuffer(b"0123456789abcdefABCDEF", np.uint8)] = [*range(16), *range(10, 16)]


def decode_base64(text: str | None, what: str) -> bytes:
    """Return the bytes of a data URL or of bare base64, however a client writes them.

    Line breaks and stray characters are passed over, as IOPaint does. A data URL may have parameters, capitals and
    blanks before it, and be percent-encoded, also without base64; base64 may lack the signs that fill up its end, or be
    of the kind that is made for addresses.

    Args:
        text: What was sent; None or "" for nothing.
        what: Its field, for the sentence of a refusal.

    Returns:
        The bytes; none for nothing.

    Raises:
        JobError: `bad_base64`.
    """
    payload = text.lstrip() if text else ""
    if DATA_URL.match(payload[:LONGEST_SCHEME]):
        marked = BASE64_MARK.search(payload[:LONGEST_SCHEME])
        if marked is None:
            return percent_decoded(payload.partition(",")[2].encode())
        payload = payload[marked.end() :]
    try:
        if "%" in payload:
            payload = percent_decoded(payload.encode()).decode("ascii")
        if "-" in payload or "_" in payload:
            payload = payload.translate(ADDRESS_LETTERS)
        return base64.b64decode(payload if payload.rstrip().endswith("=") else payload + "==")
    except (binascii.Error, ValueError) as error:
        raise JobError("bad_base64", f"{what} is not base64: {error}.") from error


def percent_decoded(data: bytes) -> bytes:
    """Return bytes with every %41 in them as the byte that it stands for; a % without two digits stays.

    urllib makes an object of every %: of 30 MiB of them 5 GiB, in a minute in which nobody else got the interpreter.
    """
    decoded = bytearray()
    begin = 0
    while begin < len(data):
        end = begin + PIECE_BYTES
        if end < len(data) and (cut := data.find(b"%", end - 2, end)) >= 0:
            end = cut  # no escape is cut in two: none can reach over the % of another
        decoded += _decoded_piece(np.frombuffer(data, np.uint8, min(end, len(data)) - begin, begin))
        begin = end
    return bytes(decoded)


def _decoded_piece(piece: np.ndarray) -> bytes:
    digits = HEX_DIGITS[piece]
    is_escape = (piece[:-2] == ord("%")) & (digits[1:-1] < NO_DIGIT) & (digits[2:] < NO_DIGIT)
    begins = np.flatnonzero(is_escape)
    decoded, is_kept = piece.copy(), np.ones(piece.size, np.bool_)
    decoded[begins] = digits[begins + 1] << 4 | digits[begins + 2]
    is_kept[begins + 1] = is_kept[begins + 2] = False
    return decoded[is_kept].tobytes()
