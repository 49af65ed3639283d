"""Files that clients wrote into texts, and the memory that reading them takes."""

import base64
import itertools
import tracemalloc
from collections.abc import Callable
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

import numpy as np
import pytest

import web.data_urls
from jobs.errors import JobError
from web.data_urls import base64_decoded, decode_base64, percent_decoded
from web.uploads import decode_mask

MIB = 1 << 20


@pytest.mark.parametrize(
    "write",
    [
        lambda text: f" \n data:image/png;base64,{text}",
        lambda text: f"DATA:image/PNG;BASE64,{text}",
        lambda text: f"data:;base64,{text}",
        lambda text: f"data:text/plain;charset=utf-8;base64,{text}",
        lambda text: f"data:image/png;name=a,b.png;base64,{text}",
        lambda text: f"data:image/png;name=日本.png;base64,{text}",
        lambda text: f"data:image/png;base64,{quote(text, safe='')}",
        lambda text: "data:image/png;base64," + "\r\n".join(text[at : at + 76] for at in range(0, len(text), 76)),
        lambda text: f"data:image/png,{quote_from_bytes(base64.b64decode(text))}",
        lambda text: text.rstrip("="),
        lambda text: text.rstrip("=") + "\n",
        lambda text: text.replace("+", "-").replace("/", "_").rstrip("="),
        lambda text: f"{text}\n",
    ],
)
def test_bytes_count_however_they_are_written_as_text(write: Callable[[str], str]) -> None:
    """Clients that wrote addresses' base64, left out the signs at its end or percent-encoded got 422."""
    for length in range(250, 256):
        data = np.random.default_rng(length).bytes(length)
        assert decode_base64(write(base64.b64encode(data).decode()), "image") == data


@pytest.mark.parametrize("text", ["AAAAé", "AAAA=é", "%C3%A9AAA", "data:;base64,AA==日"])
def test_letters_that_are_not_ascii_are_no_base64(text: str) -> None:
    with pytest.raises(JobError, match="image is not base64"):
        decode_base64(text, "image")


def outcome_of(read: Callable[[], bytes]) -> bytes | type[ValueError]:
    try:
        return read()
    except ValueError:
        return ValueError


@pytest.mark.parametrize("letters", ["AQ", "AQ\n", "AQ=", "A=", "A +=/"])
def test_base64_is_decoded_wherever_a_text_is_cut(letters: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web.data_urls, "PIECE_BYTES", 8)
    rng = np.random.default_rng(4)
    texts = ["".join(rng.choice(list(letters), length)) for length in range(60)]
    endings = ("".join(ending) for signs in range(4) for ending in itertools.product("A=", repeat=signs))
    texts += ["AQEB" * groups + ending for groups, ending in itertools.product(range(5), endings)]
    for text in texts:
        data = text.encode()
        for is_strict in (False, True):
            # As clients leave out the signs at the end, they are put there; more than there must be are passed over.
            filled = data if is_strict or data.rstrip().endswith(b"=") else data + b"=="
            expected = outcome_of(lambda: base64.b64decode(filled, validate=is_strict))  # noqa: B023
            decoded = outcome_of(lambda: base64_decoded(b"data:," + data, 6, is_strict=is_strict))  # noqa: B023
            assert decoded == expected, (data, is_strict)


@pytest.mark.parametrize("read", [decode_mask, lambda text: decode_base64(text, "image")], ids=["mask", "image"])
def test_a_large_file_is_decoded_in_pieces(read: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, it held the interpreter all the time: a click beside bodies of 70 MiB took half a second and more."""
    longest = 0
    decode = base64.b64decode

    def seen(data: bytes, validate: bool = False) -> bytes:
        nonlocal longest
        longest = max(longest, len(data))
        return decode(data, validate=validate)

    data = np.random.default_rng(1).bytes(3 * MIB + 1)
    monkeypatch.setattr(web.data_urls.base64, "b64decode", seen)
    assert read("data:image/png;base64," + base64.b64encode(data).decode()) == data
    assert 0 < longest <= MIB + 4


@pytest.mark.parametrize("letters", ["%4", "%A", "%4g", "4%"])
def test_percents_are_decoded_wherever_a_text_is_cut(letters: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web.data_urls, "PIECE_BYTES", 5)
    rng = np.random.default_rng(4)
    for length in range(40):
        data = "".join(rng.choice(list(letters), length)).encode()
        assert percent_decoded(data) == unquote_to_bytes(data), data


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("data:," + "%41" * (MIB // 3), lambda text: decode_base64(text, "image")),
        ("%" * MIB, lambda text: decode_base64(text, "image")),
        ("aa " * (MIB // 12 * 4), decode_mask),
    ],
)
def test_a_hostile_text_takes_little_memory(text: str, read: Callable[[str], bytes]) -> None:
    """Of 30 MiB of percents became 5 GiB, in a minute in which nobody was answered."""
    tracemalloc.start()
    try:
        read(text)
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()
