"""The GIMP plug-in against a stand-in of GIMP's Python interface and a real server.

GIMP itself is not needed; `test_gimp_itself.py` runs the plug-in where there is one.
"""

import importlib
import io
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.serving import RunningServer, free_port

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "gimp" / "fftlama"


class Drawable:
    """A layer or the selection: (H, W) or (H, W, C) values at an offset."""

    def __init__(self, values: np.ndarray, offset: tuple[int, int] = (0, 0)) -> None:
        self.values, self.offset = values, offset
        self.name = "Background"

    def get_width(self) -> int:
        return self.values.shape[1]

    def get_height(self) -> int:
        return self.values.shape[0]

    def get_offsets(self) -> tuple[bool, int, int]:
        return True, *self.offset

    def set_offsets(self, left: int, top: int) -> None:
        self.offset = (left, top)

    def is_gray(self) -> bool:
        return self.values.ndim == 2

    def get_bpp(self) -> int:
        return self.values[0, 0].nbytes

    @staticmethod
    def new_from_drawable(drawable: "Drawable", _image: object) -> "Drawable":
        """Return a copy for another image; the stand-in's images all have the values' own precision."""
        return Drawable(drawable.values)

    def get_name(self) -> str:
        return self.name

    def set_name(self, name: str) -> None:
        self.name = name

    def get_parent(self) -> None:
        return None

    def get_buffer(self) -> "Drawable":
        return self

    def get(self, rectangle: tuple[int, int, int, int], scale: float, pixel_format: str | None, abyss: str) -> bytes:
        """Return the values as GEGL does, nothing where the rectangle reaches beyond them."""
        assert scale == 1.0 and abyss == "none" and pixel_format == ("Y u8" if self.values.ndim == 2 else None)
        left, top, width, height = rectangle
        around = np.pad(self.values.reshape(*self.values.shape[:2], -1), ((99, 99), (99, 99), (0, 0)))
        return around[top + 99 : top + 99 + height, left + 99 : left + 99 + width].tobytes()


class Picture:
    """An image with a selection; remembers what is inserted, and counts undo groups."""

    def __init__(self, selection: np.ndarray, precision: str) -> None:
        self.selection, self.precision = Drawable(selection), precision
        self.layers: list[tuple[Drawable, object, int]] = []
        self.undo_steps: list[str] = []

    def get_selection(self) -> Drawable:
        return self.selection

    def get_precision(self) -> str:
        return self.precision

    def get_color_profile(self) -> None:
        return None

    def get_item_position(self, _layer: Drawable) -> int:
        return 3

    def insert_layer(self, layer: Drawable, parent: object, position: int) -> None:
        assert self.undo_steps == ["begin"]
        self.layers.append((layer, parent, position))

    def undo_group_start(self) -> None:
        self.undo_steps.append("begin")

    def undo_group_end(self) -> None:
        self.undo_steps.append("end")


class Procedure:
    """Keeps what a procedure is described with."""

    def __init__(self, name: str, run: Any) -> None:
        self.name, self.run = name, run
        self.said: dict[str, tuple[Any, ...]] = {}
        self.defaults: dict[str, Any] = {}

    def __getattr__(self, method: str) -> Any:
        if not method.startswith(("set_", "add_")):
            raise AttributeError(method)

        def describe(*arguments: Any) -> None:
            self.said[method] = arguments
            if method.endswith("_argument"):
                self.defaults[arguments[0]] = arguments[-2]

        return describe

    def new_return_values(self, status: str, error: Any) -> tuple[str, Any]:
        return status, error


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The plug-in's file, imported where `gi` is a stand-in; `plugin.dialog.answer` is what people press."""
    dialog = SimpleNamespace(answer=True, fill=lambda _names: None, destroy=lambda: None)
    dialog.run = lambda: dialog.answer
    choice = SimpleNamespace(add=lambda *_arguments: None)
    gimp = SimpleNamespace(
        PlugIn=type("PlugIn", (), {"error_quark": staticmethod(lambda: 7)}),
        PDBProcType=SimpleNamespace(PLUGIN="plugin"),
        ImageProcedure=SimpleNamespace(new=lambda _plugin, name, _kind, run, _data: Procedure(name, run)),
        ProcedureSensitivityMask=SimpleNamespace(DRAWABLE=1),
        Choice=SimpleNamespace(new=lambda: choice),
        RunMode=SimpleNamespace(INTERACTIVE="asks", NONINTERACTIVE="asks nothing"),
        PDBStatusType=SimpleNamespace(SUCCESS="success", CANCEL="cancel", EXECUTION_ERROR="error"),
        Precision=SimpleNamespace(U8_LINEAR="u8l", U8_NON_LINEAR="u8", U8_PERCEPTUAL="u8p", U16_NON_LINEAR="u16"),
        ImageBaseType=SimpleNamespace(GRAY="grey", RGB="rgb"),
        Image=SimpleNamespace(new_with_precision=lambda *_: SimpleNamespace(insert_layer=print, delete=lambda: None)),
        Layer=Drawable,
        file_load_layer=lambda _mode, _image, file: Drawable(np.asarray(Image.open(io.BytesIO(file)))),
        displays_flush=lambda: None,
        progress_init=lambda _text: None,
        progress_pulse=lambda: None,
        progress_end=lambda: None,
    )
    repository = ModuleType("gi.repository")
    for name, stand_in in {
        "Gimp": gimp,
        "GimpUi": SimpleNamespace(init=lambda _name: None, ProcedureDialog=SimpleNamespace(new=lambda *_: dialog)),
        "Gegl": SimpleNamespace(
            Rectangle=SimpleNamespace(new=lambda *sides: sides), AbyssPolicy=SimpleNamespace(NONE="none")
        ),
        "Gio": SimpleNamespace(File=SimpleNamespace(new_for_path=lambda path: Path(path).read_bytes())),
        "GLib": SimpleNamespace(Error=SimpleNamespace(new_literal=lambda _quark, text, _code: text)),
        "GObject": SimpleNamespace(ParamFlags=SimpleNamespace(READWRITE=3)),
    }.items():
        setattr(repository, name, stand_in)
    gi = ModuleType("gi")
    gi.require_version = lambda _name, _version: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gi", gi)
    monkeypatch.setitem(sys.modules, "gi.repository", repository)
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    for name in ("fftlama", "fftlama_rest"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("fftlama")
    module.dialog = dialog  # type: ignore[attr-defined]
    yield module
    for name in ("fftlama", "fftlama_rest"):
        sys.modules.pop(name, None)


def run(
    plugin: ModuleType, picture: Picture, layers: list[Drawable], mode: str = "asks nothing", **settings: str
) -> tuple[str, Any]:
    """Call the procedure as GIMP does, with its own defaults where nothing is given."""
    (name,) = plugin.Fftlama().do_query_procedures()
    procedure = plugin.Fftlama().do_create_procedure(name)
    config = SimpleNamespace(get_property={**procedure.defaults, **settings}.__getitem__)
    status, error = procedure.run(procedure, mode, picture, layers, config, None)
    return status, error


def selection(top: int = 20, left: int = 30) -> np.ndarray:
    values = np.zeros((80, 100), np.uint8)
    values[top : top + 12, left : left + 20] = 255
    return values


def values_of(channels: int, dtype: Any, size: tuple[int, int] = (80, 100)) -> np.ndarray:
    most = np.iinfo(dtype).max
    values = np.random.default_rng(5).integers(0, most, (*size, channels), dtype, endpoint=True)
    if channels == 4:
        values[..., 3] = most
    return values


def test_a_sentence_about_the_server_is_shown_by_the_thread_that_gimp_knows(
    plugin: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[str, bool]] = []
    seen = threading.Event()

    def show(text: str) -> None:
        shown.append((text, threading.current_thread() is threading.main_thread()))
        seen.set()

    def work() -> bytes:
        news.append("The server is away")
        assert seen.wait(20)
        return b"png"

    monkeypatch.setattr(plugin.Gimp, "progress_set_text", show, raising=False)
    news: list[str] = []
    assert plugin._while_pulsing(work, news) == b"png" and shown == [("The server is away", True)]


def test_procedure_is_described_for_the_menu(plugin: ModuleType) -> None:
    one = plugin.Fftlama()
    procedure = one.do_create_procedure(one.do_query_procedures()[0])
    assert procedure.said["add_menu_path"] == ("<Image>/Filters/Enhance",)
    assert procedure.said["set_image_types"] == ("RGB*, GRAY*",)
    assert procedure.defaults == {"address": "http://127.0.0.1:7860", "key": "", "quality": "fast"}
    assert not one.do_set_i18n("fftlama")
    assert (FOLDER / "fftlama.py").stat().st_mode & 0o111, "GIMP runs the file itself"
    assert FOLDER.name == "fftlama", "GIMP wants the folder called like the file"


@pytest.mark.parametrize(("channels", "dtype"), [(3, np.uint8), (4, np.uint8)])
def test_selection_is_erased_on_a_layer_above(
    plugin: ModuleType, api_server: RunningServer, monkeypatch: pytest.MonkeyPatch, channels: int, dtype: Any
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # it was asked for 127.0.0.1, which to it is itself
    monkeypatch.delenv("no_proxy", raising=False)
    picture = Picture(selection(), "u8")
    layer = Drawable(values_of(channels, dtype))
    before = layer.values.copy()
    assert run(plugin, picture, [layer], mode="asks", address=api_server.url) == ("success", None)
    ((new, parent, position),) = picture.layers
    assert (parent, position, new.offset, picture.undo_steps) == (None, 3, (0, 0), ["begin", "end"])
    assert new.name == "Background (erased)" and np.array_equal(layer.values, before)
    changed = (new.values != before).any(axis=2)
    assert changed[picture.selection.values > 0].mean() > 0.9
    rows, columns = np.nonzero(changed)
    assert rows.min() >= 10 and rows.max() < 42 and columns.min() >= 20 and columns.max() < 60, "only around the hole"


def test_layer_beside_the_images_corner_takes_its_part_of_the_selection(
    plugin: ModuleType, api_server: RunningServer
) -> None:
    picture = Picture(selection(), "u8")
    layer = Drawable(values_of(3, np.uint8, (70, 60)), offset=(25, -10))
    assert run(plugin, picture, [layer], address=api_server.url)[0] == "success"
    ((new, _, _),) = picture.layers
    assert new.offset == (25, -10)
    changed = (new.values != layer.values).any(axis=2)
    assert changed[30:42, 5:25].mean() > 0.9 and not changed[55:].any() and not changed[:, 40:].any()


def test_what_does_not_work_is_a_sentence(plugin: ModuleType, api_server: RunningServer) -> None:
    layer = Drawable(values_of(3, np.uint8))
    nothing = Picture(np.zeros((80, 100), np.uint8), "u8")
    nowhere = f"http://127.0.0.1:{free_port()}"
    for picture, layers, settings, words in (
        (nothing, [layer], {"address": api_server.url}, "Nothing is selected"),
        (Picture(selection(), "u8"), [layer, layer], {}, "one layer"),
        (Picture(selection(), "u8"), [layer], {"address": nowhere}, "No server answers"),
        (Picture(selection(), "u8"), [layer], {"address": "127.0.0.1:7860"}, "no address"),
        (Picture(selection(), "u8"), [layer], {"address": api_server.url, "quality": "best"}, "refused (422)"),
    ):
        status, sentence = run(plugin, picture, layers, **settings)
        assert status == "error" and words in sentence, sentence
        assert not picture.layers and "Traceback" not in sentence
    plugin.dialog.answer = False
    assert run(plugin, Picture(selection(), "u8"), [layer], mode="asks") == ("cancel", None)


@pytest.mark.parametrize(
    ("channels", "bits", "mode"), [(1, 8, "L"), (2, 8, "LA"), (3, 8, "RGB"), (4, 8, "RGBA"), (3, 16, None)], ids=str
)
def test_png_holds_the_pixels(plugin: ModuleType, channels: int, bits: int, mode: str | None) -> None:
    import cv2

    values = values_of(channels, np.uint16 if bits == 16 else np.uint8, (7, 13))
    file = plugin.encode_png(values.tobytes(), 13, 7, channels=channels, bits=bits)
    if mode:
        decoded = np.asarray(Image.open(io.BytesIO(file)))
        assert Image.open(io.BytesIO(file)).mode == mode
    else:
        read = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
        assert read is not None
        decoded = read[..., ::-1]
    assert np.array_equal(decoded.reshape(values.shape), values)
    with pytest.raises(ValueError, match="are not 13 x 7"):
        plugin.encode_png(values.tobytes()[1:], 13, 7, channels=channels, bits=bits)


def test_sixteen_bits_are_kept(plugin: ModuleType, api_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = {}
    monkeypatch.setattr(plugin, "repair", lambda **given: sent.update(given) or given["image"])
    picture = Picture(selection(), "u16")
    assert run(plugin, picture, [Drawable(values_of(3, np.uint16))], address=api_server.url)[0] == "success"
    assert sent["image"][24] == 16 and sent["mask"][24] == 8, "the header's bits of each value"
