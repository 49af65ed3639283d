"""A file that a client wrote into a text: a data URL or bare base64. Knows no pictures and no HTTP."""

import base64
import binascii
import re

import numpy as np

from jobs.errors import JobError

DATA_URL = re.compile("data:", re.IGNORECASE)
BASE64_MARK = re.compile(";base64,", re.IGNORECASE)
LONGEST_SCHEME = 1000  # characters of a data URL before its data
ADDRESS_LETTERS = bytes.maketrans(b"-_", b"+/")
PIECE_BYTES = 1 << 20
STRAY = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"))
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
    begin = 0
    if DATA_URL.match(payload[:LONGEST_SCHEME]):
        marked = BASE64_MARK.search(payload[:LONGEST_SCHEME])
        if marked is None:
            return percent_decoded(payload.partition(",")[2].encode())
        begin = marked.end()
    if not payload.isascii():  # a name in a data URL may be in any letters
        payload, begin = payload[begin:], 0
    try:
        data = payload.encode("ascii")
        if data.find(b"%", begin) >= 0:
            data, begin = percent_decoded(data[begin:]).decode("ascii").encode(), 0
        if data.find(b"-", begin) >= 0 or data.find(b"_", begin) >= 0:
            data = data.translate(ADDRESS_LETTERS)
        return base64_decoded(data, begin)
    except (binascii.Error, ValueError) as error:
        raise JobError("bad_base64", f"{what} is not base64: {error}.") from error


def base64_decoded(data: bytes, begin: int = 0, *, is_strict: bool = False) -> bytes:
    """Return what base64 stands for, as the standard library does, but piece by piece and without a copy of it.

    Whole, 70 MiB held the interpreter for a quarter of a second, for which everybody waited.

    Args:
        data: Letters of base64.
        begin: Where they begin.
        is_strict: Whether stray characters and a lack of the signs that fill up the end are refused.

    Returns:
        The bytes.

    Raises:
        ValueError: It is not base64; `binascii.Error` is one.
    """
    end = data.find(b"=", begin)
    end = len(data) if end < 0 else end  # from there on it is the library's to say what that means
    pieces: list[bytes] = []
    left = b""
    for at in range(begin, end, PIECE_BYTES):
        piece = data[at : min(end, at + PIECE_BYTES)]
        letters = left + (piece if is_strict else piece.translate(None, STRAY))
        whole = max(len(letters) - 1, 0) // 4 * 4  # the last one stays: what ends it is judged with it
        pieces.append(base64.b64decode(letters[:whole], validate=is_strict))
        left = letters[whole:]
    left += data[end:]
    if not is_strict and not left.rstrip().endswith(b"="):
        left += b"=="
    return b"".join([*pieces, base64.b64decode(left, validate=is_strict)])


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
