"""What travels through Redis: blobs come back as they were, cut ones are refused, a worker gets enough of a photo."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from jobs.celery_app import place_of, required_instead
from jobs.redis_messages import SERVER_KEY, WORKER_PREFIX, AttemptKeys, ladder_from, pack, queue_name, unpack
from jobs.remote_engine import Fleet
from jobs.windows import MARGIN_PX, RemoteResult, window_of
from masks.boxes import find_bounds
from notices import Note, note_as_dict, note_from_dict

# Numbers by a seed: to draw them one by one takes hypothesis most of its time.
ARRAYS = st.lists(
    st.builds(
        lambda dtype, shape, seed: (
            np.random.default_rng(seed).integers(0, 2 if dtype is np.bool_ else 2**16, shape).astype(dtype)
        ),
        st.sampled_from([np.uint8, np.uint16, np.bool_]),
        arrays_of.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=9),
        st.integers(0, 2**16),
    ),
    max_size=3,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
HEADERS = st.dictionaries(st.text().filter(lambda key: key != "arrays"), JSON, max_size=4)


@pytest.mark.parametrize(
    "address",
    ["redis://:secret@h:6379/0", "rediss://who:a@secret@h:6379/0", "redis://h:6379/0?password=secret", "redis://h:6379/0?password=a@secret"],
)  # fmt: skip
def test_a_log_tells_where_a_redis_is_and_no_password(address: str) -> None:
    assert place_of(address) == "h:6379/0"


@given(header=HEADERS, arrays=ARRAYS)
def test_blob_comes_back_as_it_was(header: dict[str, object], arrays: list[np.ndarray]) -> None:
    read_header, read_arrays = unpack(pack(header, arrays))
    assert read_header == header
    assert len(read_arrays) == len(arrays)
    for sent, read in zip(arrays, read_arrays, strict=True):
        assert read.dtype == sent.dtype and read.shape == sent.shape
        assert np.array_equal(read, sent)


def test_part_of_a_larger_array_is_sent_alone() -> None:
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    blob = pack({}, [image[1:3, 2:5], image[1:3, 2:5, 0] > 20])
    _, (crop, mask) = unpack(blob)
    assert np.array_equal(crop, image[1:3, 2:5]) and np.array_equal(mask, image[1:3, 2:5, 0] > 20)
    assert len(blob) < 150 + 2 * 3 * 3 + 1, "a mask takes one bit a pixel"


@given(blob=st.binary(max_size=64))
@example(blob=b"\x00\x00\x00\x01" + b"5")
@example(blob=b"\x00\x00\x00\x02" + b"[]")
def test_anything_else_is_refused(blob: bytes) -> None:
    with pytest.raises(ValueError, match="can't be read"):
        unpack(blob)


@given(share=st.floats(0.0, 1.0, exclude_max=True))
def test_cut_blob_is_refused(share: float) -> None:
    blob = pack({"kind": "result"}, [np.full((5, 7, 3), 9, np.uint16), np.ones((5, 7), bool)])
    with pytest.raises(ValueError, match="can't be read"):
        unpack(blob[: int(share * len(blob))])


@pytest.mark.parametrize("dtype", ["float32", "object", "int64"])
def test_other_arrays_are_not_sent(dtype: str) -> None:
    with pytest.raises(ValueError, match="uint8, uint16, bool"):
        pack({}, [np.zeros(3, dtype)])


def test_blob_cannot_name_another_type_of_array() -> None:
    blob = bytes(pack({}, [np.zeros(8, np.uint8)])).replace(b'"uint8"', b'"objec"')
    with pytest.raises(ValueError, match="can't be read"):
        unpack(blob)


def test_note_comes_back_as_it_was() -> None:
    note = Note("Scaled to 80 %.", code="scaled", percent=80)
    read = note_from_dict(json.loads(json.dumps(note_as_dict(note))))
    assert (str(read), read.code, read.params) == (str(note), note.code, note.params)


def test_every_key_of_an_attempt_is_its_own() -> None:
    keys = AttemptKeys("a"), AttemptKeys("b")
    assert len({name for one in keys for name in one.all}) == 8
    assert len({queue_name(f, is_batch=batch) for f in ("x", "y") for batch in (False, True)}) == 4


@given(data=st.data())
def test_worker_gets_the_hole_with_enough_around_it(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 4000)), data.draw(st.integers(1, 4000))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    window = window_of(mask)
    assert 0 <= window[0] <= max(0, left - MARGIN_PX) and 0 <= window[1] <= max(0, top - MARGIN_PX)
    assert width >= window[2] >= min(width, right + MARGIN_PX)
    assert height >= window[3] >= min(height, bottom + MARGIN_PX)
    assert find_bounds(mask) == (left, top, right, bottom)


def test_small_hole_in_a_large_photo_sends_a_part_of_it() -> None:
    mask = np.zeros((3000, 4000), bool)
    mask[1400:1500, 1900:2000] = True
    left, top, right, bottom = window_of(mask)
    assert (right - left) * (bottom - top) < 0.3 * mask.size
    assert window_of(np.zeros((30, 40), bool)) == (0, 0, 40, 30)
    mask[100:2900, 100:3900] = True
    assert window_of(mask) == (0, 0, 4000, 3000)


GARBAGE = [
    "no json",
    "[]",
    "{}",
    "1",
    '{"fingerprint": 1, "name": [], "version": "", "weights": "", "device": ""}',
    "\xff",
]


def test_what_others_write_into_redis_ends_nobody_who_looks_there(tmp_path: Path) -> None:
    """One key that was no worker's ended the thread that watches: no worker that came or went was noticed any more."""
    (tmp_path / "weights").write_bytes(b"w")
    fleet = Fleet("redis://127.0.0.1:1", version="1", weights=tmp_path / "weights")
    about = {"fingerprint": fleet.fingerprint, "name": "a", "version": "1", "weights": "weights", "device": "cpu"}
    kept = {f"{WORKER_PREFIX}{number}": text for number, text in enumerate([*GARBAGE, json.dumps(about)])}
    client = SimpleNamespace(
        set=lambda *_, **__: True, get=kept.get, exists=kept.__contains__,
        mget=lambda names: [kept[name] for name in names], scan_iter=lambda *_, **__: iter(kept),
    )  # fmt: skip
    fleet.client = client  # type: ignore[assignment]
    fleet._look()
    assert fleet.workers == [about] and fleet.refused == []
    for text in GARBAGE:
        kept[SERVER_KEY] = text
        assert required_instead(client, "f") is None  # type: ignore[arg-type]


def test_servers_of_two_versions_share_a_redis(tmp_path: Path) -> None:
    """Each wrote over the other's entry: workers were told now and then that the server runs another version."""
    (tmp_path / "weights").write_bytes(b"w")
    kept: dict[str, str] = {}
    client = SimpleNamespace(
        set=lambda key, text, **_: kept.update({key: text}), get=kept.get, exists=kept.__contains__,
        scan_iter=lambda *_, **__: [key for key in kept if key.startswith(WORKER_PREFIX)],
        mget=lambda names: [kept[name] for name in names],
    )  # fmt: skip
    fleets = {version: Fleet("redis://127.0.0.1:1", version=version, weights=tmp_path / "weights") for version in "123"}
    for version, fleet in fleets.items():
        about = {"fingerprint": fleet.fingerprint, "name": version, "version": version, "weights": "w", "device": "cpu"}
        kept[f"{WORKER_PREFIX}{version}"] = json.dumps(about)
        fleet.client = client  # type: ignore[assignment]
    for version in "12":
        fleets[version].announce()
    for version in "12":
        fleets[version]._look()
        assert required_instead(client, fleets[version].fingerprint) is None  # type: ignore[arg-type]
        assert [worker["version"] for worker in fleets[version].workers] == [version]
        assert [worker["version"] for worker in fleets[version].refused] == ["3"], "which no server takes"
    assert required_instead(client, fleets["3"].fingerprint) == json.loads(kept[SERVER_KEY])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("box", "shape", "kind"),
    [
        ((0, 0, 5, 4), (4, 4, 3), np.uint8), ((-1, 0, 3, 4), (4, 4, 3), np.uint8), ((8, 0, 12, 4), (4, 4, 3), np.uint8),
        ((4, 0, 0, 4), (4, 4, 3), np.uint8), ((0, 0, 4, 4), (4, 4), np.uint8), ((0, 0, 4, 4), (4, 4, 3), np.uint16),
    ],
)  # fmt: skip
def test_patches_that_do_not_fit_their_photo_are_refused(
    box: tuple[int, int, int, int], shape: tuple[int, ...], kind: type
) -> None:
    """They went into the photo's history, none of whose later rounds could be opened."""
    window, photo = (2, 3, 12, 13), np.zeros((30, 30, 3), np.uint8)
    RemoteResult([((0, 0, 10, 10), np.zeros((10, 10, 3), np.uint8))], {}).check_fits(window, photo)
    with pytest.raises(ValueError, match="does not fit"):
        RemoteResult([(box, np.zeros(shape, kind))], {}).check_fits(window, photo)


def test_buckets_of_a_worker_are_believed_where_they_can_be() -> None:
    assert ladder_from({"buckets_px": [1024, 512]}) == (512, 1024)
    for told in (None, "512", 512, ["512"], [0], [-8], [True], [512.5], [1 << 40], {"512": 1}):
        assert ladder_from({"buckets_px": told}) == ()
    assert ladder_from({}) == ()
