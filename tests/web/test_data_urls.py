"""Files that clients wrote into texts, and the memory that reading them takes."""

import base64
import tracemalloc
from collections.abc import Callable
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

import numpy as np
import pytest

import web.data_urls
from web.data_urls import decode_base64, percent_decoded
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
