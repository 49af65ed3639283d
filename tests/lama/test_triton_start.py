"""What Triton is told before its first kernel; its digest of itself is kept, and made again when its files change."""

import importlib.util
import json
import os
import warnings
from pathlib import Path
from types import ModuleType

import pytest

from lama.triton_start import FP_FUSION, NAME, prepare_triton, use_kept_key


class Digests:
    """A Triton on disk, and the digests that it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made = 0
        for name in ("runtime/cache.py", "_C/libtriton.so", "compiler/code.py", "backends/nvidia/driver.py"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)

    def module(self) -> ModuleType:
        """Its module, as a process finds it that has just begun."""
        module = ModuleType("cache")
        module.__file__ = str(self.folder / "runtime" / "cache.py")
        module.triton_key = self._make  # type: ignore[attr-defined]
        return module

    def _make(self) -> str:
        self.made += 1
        return f"digest {self.made}"

    def ask(self, kept_in: Path) -> str:
        """Ask for the digest in a new process."""
        module = self.module()
        use_kept_key(module, kept_in)
        return str(module.triton_key())


def test_a_digest_is_made_once_and_again_when_a_file_changes(tmp_path: Path) -> None:
    triton, kept = Digests(tmp_path / "triton"), tmp_path / "cache"
    assert [triton.ask(kept) for _ in range(3)] == ["digest 1"] * 3
    os.utime(triton.folder / "_C/libtriton.so", ns=(1, 1))
    assert [triton.ask(kept) for _ in range(2)] == ["digest 2"] * 2
    (triton.folder / "backends/nvidia/driver.py").write_text("another one, longer")
    assert triton.ask(kept) == "digest 3"
    (triton.folder / "compiler/new.py").write_text("")
    assert triton.ask(kept) == "digest 4"
    assert triton.ask(kept) == "digest 4"


@pytest.mark.parametrize("found", [b"", b"[]", b"{", b'{"key": "a digest"}', b"\xff"])
def test_what_is_no_digest_is_made_again(tmp_path: Path, found: bytes) -> None:
    triton, kept = Digests(tmp_path / "triton"), tmp_path / "cache"
    kept.mkdir()
    (kept / NAME).write_bytes(found)
    assert triton.ask(kept) == "digest 1"
    assert json.loads((kept / NAME).read_bytes())["key"] == "digest 1"


def test_a_folder_that_cannot_be_written_leaves_triton_as_it_was(tmp_path: Path) -> None:
    triton = Digests(tmp_path / "triton")
    (tmp_path / "file").write_text("")
    module = triton.module()
    make = module.triton_key
    with pytest.raises(OSError):
        use_kept_key(module, tmp_path / "file")
    assert module.triton_key == make


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_the_real_one_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime import cache

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv(FP_FUSION, "1")  # so that it stays as it is
    monkeypatch.setattr(cache, "triton_key", lambda: "what it takes")
    prepare_triton.__wrapped__()
    assert cache.triton_key() == "what it takes"
    assert json.loads((tmp_path / NAME).read_bytes())["key"] == "what it takes"
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).mkdir()
    monkeypatch.setattr(cache, "triton_key", lambda: "another")
    prepare_triton.__wrapped__()
    assert cache.triton_key() == "another"


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
@pytest.mark.parametrize(("given", "fuses"), [(None, True), ("0", False), ("1", True)])
def test_fusing_is_asked_for_unless_the_environment_decides(
    given: str | None, fuses: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton 3.9 warned in each process that it will not fuse one day, into the log of whoever has a card."""
    from triton import knobs

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    with knobs.language.scope(), warnings.catch_warnings():
        warnings.simplefilter("error")
        knobs.language.reset()
        if given is None:
            monkeypatch.delenv(FP_FUSION, raising=False)
        else:
            monkeypatch.setenv(FP_FUSION, given)
        prepare_triton.__wrapped__()
        asked = getattr(knobs.language, "fp_fusion_enabled", lambda _: knobs.language.default_fp_fusion)
        assert asked(None) is fuses
