"""Downloads against the misbehaving server: what arrives is whole, and what can't arrive is explained."""

import fcntl
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lama import catalogue as downloads
from lama.catalogue import CATALOGUE, DownloadError, Weights, fetch, find_weights, installed_path, list_weights
from lama.transfer import Patience
from tests.support.misbehaving_mirror import CONTENT, SHA256, Mirror, running_mirror

QUICK = Patience(stall_s=0.4, slowest_bytes_s=5000, tries_without_progress=2, least_progress_bytes=1000, pause_s=0.01)


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    with running_mirror() as server:
        yield server


def weights(*sources: str) -> Weights:
    return Weights("test", "weights.bin", SHA256, len(CONTENT), sources, "for tests")


@pytest.fixture
def get(mirror: Mirror, tmp_path: Path) -> Callable[..., Path]:
    """Fetch from mirrors of the given behaviours, in order."""

    def fetch_from(*behaviours: str, **options: object) -> Path:
        sources = [f"{mirror.url}/{behaviour}/weights.bin" for behaviour in behaviours]
        return fetch(weights(*sources), folder=tmp_path, patience=QUICK, **options)  # type: ignore[arg-type]

    return fetch_from


def assert_complete(path: Path) -> None:
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == ["weights.bin"], "nothing else is left behind"


@pytest.mark.parametrize(
    "behaviour", ["good", "no_length", "length_is_no_number", "redirects", "busy", "long_length", "cuts"]
)
def test_imperfect_server_delivers(get: Callable[..., Path], behaviour: str) -> None:
    assert_complete(get(behaviour))


def test_cut_download_goes_on_where_it_stopped(get: Callable[..., Path], mirror: Mirror) -> None:
    assert_complete(get("cuts"))
    assert mirror.ranges() == ["", "bytes=100000-", "bytes=200000-", "bytes=300000-"]
    assert mirror.requests[1][1]["If-Range"] == '"one"'


def test_interrupted_download_goes_on_in_the_next_run(get: Callable[..., Path], mirror: Mirror) -> None:
    def interrupt(done: int, _total: int, _host: str) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get("cuts", on_progress=interrupt)
    assert_complete(get("good"))
    assert int(mirror.ranges()[-1].removeprefix("bytes=").removesuffix("-")) > 0


@pytest.mark.slow
def test_stalled_download_is_noticed_and_goes_on_elsewhere(get: Callable[..., Path], mirror: Mirror) -> None:
    assert_complete(get("stalls", "good"))
    assert mirror.requests[-1][0] == "good"
    assert mirror.ranges()[-1] == "bytes=50000-"


@pytest.mark.slow
def test_trickle_counts_as_a_stall(get: Callable[..., Path]) -> None:
    assert_complete(get("trickles", "good"))


def test_server_that_ignores_range_restarts_cleanly(get: Callable[..., Path], mirror: Mirror) -> None:
    assert_complete(get("ignores_range"))
    assert mirror.ranges() == ["", "bytes=200000-"]


def test_file_that_changed_meanwhile_is_fetched_anew(get: Callable[..., Path]) -> None:
    assert_complete(get("changed_since"))


def test_beginning_of_another_file_is_thrown_away(get: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "weights.bin.part").write_bytes(b"x" * 150_000)
    assert_complete(get("good"))


@pytest.mark.parametrize("length", [len(CONTENT), len(CONTENT) + 7])
def test_part_as_long_as_the_file_is_settled(get: Callable[..., Path], tmp_path: Path, length: int) -> None:
    """A server answers 416 to the rest of a complete part."""
    (tmp_path / "weights.bin.part").write_bytes((CONTENT + bytes(7))[:length])
    assert_complete(get("good"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("wrong_bytes", "sha256"),
        ("web_page", "web page"),
        ("missing", "404"),
        ("error_text", "ended after 14 of"),
        ("huge_length", "announces"),
        ("endless", "more than"),
        ("always_cuts_at_once", "cut"),
        ("stalls", "nothing came for 0.4 s"),
        ("wrong_part", "another part"),
        ("short_length", "ended after"),
        ("redirects_forever", "30"),
        ("redirects_to_a_file", "302"),
        ("redirects_to_no_address", "address"),
        ("redirects_to_no_name", "address"),
        ("never_satisfied", "416"),
    ],
)
def test_bad_mirror_is_explained_and_the_next_one_delivers(
    get: Callable[..., Path], tmp_path: Path, behaviour: str, words: str
) -> None:
    with pytest.raises(DownloadError) as caught:
        get(behaviour)
    message = str(caught.value)
    assert "127.0.0.1: " in message and words in message
    assert str(tmp_path / "weights.bin") in message, "it says where to put the file by hand"
    assert not (tmp_path / "weights.bin").exists()
    assert_complete(get(behaviour, "good"))


def test_own_mirrors_are_tried_first(get: Callable[..., Path], mirror: Mirror) -> None:
    assert_complete(get("missing", mirrors=f"{mirror.url}/web_page/, {mirror.url}/good/weights.bin"))
    assert [name for name, _ in mirror.requests] == ["web_page", "good"]


def test_mirror_that_is_no_web_address_is_refused(get: Callable[..., Path]) -> None:
    with pytest.raises(DownloadError, match="https://"):
        get("good", mirrors="/mnt/files")


def test_mirror_of_a_broken_address_is_passed_over(get: Callable[..., Path]) -> None:
    assert_complete(get("good", mirrors="http://[::1/x"))


def test_folder_of_the_files_name_is_not_touched(get: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "weights.bin").mkdir()
    with pytest.raises(DownloadError, match="move it away"):
        get("good")


def test_progress_ends_at_the_whole_file(get: Callable[..., Path]) -> None:
    calls: list[tuple[int, int, str]] = []
    get("good", on_progress=lambda *call: calls.append(call))
    assert calls[-1] == (len(CONTENT), len(CONTENT), "127.0.0.1")
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)


def test_file_that_is_there_costs_no_request(get: Callable[..., Path], mirror: Mirror) -> None:
    get("good")
    get("good")
    assert len(mirror.requests) == 1


def test_other_file_of_that_name_is_not_overwritten(get: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"my own")
    with pytest.raises(DownloadError, match="move it away"):
        get("good")
    assert (tmp_path / "weights.bin").read_bytes() == b"my own"


def test_full_disk_is_noticed_before_anything_is_fetched(
    get: Callable[..., Path], mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _path: usage._replace(free=10_000))
    with pytest.raises(DownloadError, match="make room"):
        get("good")
    assert not mirror.requests


def test_folder_that_cannot_be_written_is_a_sentence(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DownloadError, match="can't be written"):
        fetch(weights(f"{mirror.url}/good/weights.bin"), folder=tmp_path / "file")


def test_second_download_of_the_same_file_is_refused(get: Callable[..., Path], tmp_path: Path) -> None:
    with (tmp_path / ".weights.bin.part.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match="another download"):
            get("good")
    assert_complete(get("good"))


def test_proxy_is_used_and_named(get: Callable[..., Path], mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mirror plays a proxy: a proxied request carries the whole address in its first line."""
    monkeypatch.setenv("http_proxy", mirror.url)
    monkeypatch.setenv("https_proxy", "http://somebody:secret@proxy.example:3128")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(DownloadError) as caught:
        get("missing")
    assert "proxy.example was used" in str(caught.value) and "secret" not in str(caught.value)


def test_no_network_is_said_plainly(tmp_path: Path, mirror: Mirror) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/weights.bin"
    with pytest.raises(DownloadError, match="refused"):
        fetch(weights(address), folder=tmp_path, patience=QUICK)
    with pytest.raises(DownloadError, match="offline"):
        fetch(weights("http://nowhere.invalid/weights.bin"), folder=tmp_path, patience=QUICK)


def test_catalogue_is_pinned() -> None:
    for name, entry in CATALOGUE.items():
        assert entry.name == name and len(entry.sha256) == 64 and int(entry.sha256, 16)
        assert entry.licence and entry.photos
        for source in entry.sources:
            assert source.startswith("https://") and source.endswith(Path(entry.filename).suffix)


def test_choice_of_weights(tmp_path: Path) -> None:
    assert find_weights("", tmp_path) is None
    assert find_weights("lama-compact", tmp_path) is None
    assert find_weights("some/file.ckpt", tmp_path) == Path("some/file.ckpt")
    with pytest.raises(DownloadError, match="weights get big-lama"):
        find_weights("big-lama", tmp_path)
    with pytest.raises(DownloadError, match="there are: big-lama"):
        fetch("huge-lama", folder=tmp_path)
    file = tmp_path / "big-lama.pt"
    file.write_bytes(b"x")
    assert (
        find_weights("", tmp_path) == find_weights("big-lama", tmp_path) == installed_path("big-lama", tmp_path) == file
    )


def test_every_file_people_put_there_can_be_chosen_by_name(tmp_path: Path) -> None:
    for name in ("mine.safetensors", "mine.ckpt", "big-lama.pt", "notes.txt", ".hidden.pt", "x.pt.part"):
        (tmp_path / name).write_bytes(b"12345")
    outside = tmp_path / "elsewhere" / "old"
    outside.parent.mkdir()
    outside.write_bytes(b"1")
    known = {choice.name: choice for choice in list_weights(tmp_path, given=outside)}
    assert list(known) == ["lama-compact", "big-lama", "lama-fourier", "mine", "mine.safetensors", "old"]
    assert known["mine"].path == tmp_path / "mine.ckpt" and known["big-lama"].size_bytes == 5
    assert find_weights("mine.safetensors", tmp_path) == tmp_path / "mine.safetensors"
    assert known["lama-compact"].path is None
    assert [choice.installed for choice in list_weights(tmp_path / "none")][1] is False


def test_importing_downloads_does_not_import_torch() -> None:
    code = "import sys, lama.catalogue; sys.exit(bool({'torch', 'httpx', 'numpy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(downloads.__file__).parents[1])
