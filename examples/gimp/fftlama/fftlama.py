#!/usr/bin/env python3
"""GIMP 3 plug-in: erase what is selected, with a server of fftlama.

In the menu: Filters > Enhance > Erase selection (fftlama)… The active layer and the selection go to the server; its
answer becomes a layer above, and the one below stays as it is.
"""

import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gi

gi.require_version("Gimp", "3.0")
gi.require_version("GimpUi", "3.0")
gi.require_version("Gegl", "0.4")
from gi.repository import Gegl, Gimp, GimpUi, Gio, GLib, GObject  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent))
from fftlama_rest import ServerError, encode_png, repair  # noqa: E402

PROCEDURE = "plug-in-fftlama-erase"
PULSE_S = 0.2


class Fftlama(Gimp.PlugIn):
    """One procedure."""

    def do_set_i18n(self, _name: str) -> bool:
        """Say that there are no translations."""
        return False

    def do_query_procedures(self) -> list[str]:
        """Name the procedures."""
        return [PROCEDURE]

    def do_create_procedure(self, name: str) -> Any:
        """Describe a procedure: where it is in the menu, and what it asks for."""
        procedure = Gimp.ImageProcedure.new(self, name, Gimp.PDBProcType.PLUGIN, self.run, None)
        procedure.set_image_types("RGB*, GRAY*")
        procedure.set_sensitivity_mask(Gimp.ProcedureSensitivityMask.DRAWABLE)
        procedure.set_menu_label("Erase selection (_fftlama)…")
        procedure.add_menu_path("<Image>/Filters/Enhance")
        procedure.set_documentation(
            "Erase what is selected",
            "Sends the active layer and the selection to a server of fftlama; its answer becomes a layer above.",
            name,
        )
        procedure.set_attribution("fftlama", "fftlama", "2026")
        both = GObject.ParamFlags.READWRITE
        procedure.add_string_argument("address", "Ser_ver", "Its address", "http://127.0.0.1:7860", both)
        procedure.add_string_argument("key", "API _key", "Where the server has a login", "", both)
        quality = Gimp.Choice.new()
        quality.add("fast", 0, "Fast", "")
        quality.add("high", 1, "High: refines very large areas", "")
        procedure.add_choice_argument("quality", "_Quality", "How thoroughly", quality, "fast", both)
        return procedure

    def run(self, procedure: Any, run_mode: Any, image: Any, drawables: list[Any], config: Any, _data: object) -> Any:
        """Repair the one layer that is chosen."""
        if run_mode == Gimp.RunMode.INTERACTIVE:
            GimpUi.init("fftlama")
            dialog = GimpUi.ProcedureDialog.new(procedure, config, "Erase selection")
            dialog.fill(None)
            is_wanted = dialog.run()
            dialog.destroy()
            if not is_wanted:
                return procedure.new_return_values(Gimp.PDBStatusType.CANCEL, None)
        try:
            if len(drawables) != 1:
                raise ServerError("Choose one layer; it can't be several.")
            erase(image, drawables[0], config)
        except ServerError as error:
            failure = GLib.Error.new_literal(Gimp.PlugIn.error_quark(), str(error), 0)
            return procedure.new_return_values(Gimp.PDBStatusType.EXECUTION_ERROR, failure)
        return procedure.new_return_values(Gimp.PDBStatusType.SUCCESS, None)


def erase(image: Any, drawable: Any, config: Any) -> None:
    """Put the repaired layer above a layer. Raises ServerError."""
    if not isinstance(drawable, Gimp.Layer):
        raise ServerError("Choose a layer; a mask or a channel has nothing to erase.")
    width, height = drawable.get_width(), drawable.get_height()
    _, left, top = drawable.get_offsets()
    # The selection is as large as the image, and a layer may lie anywhere on it.
    selected = _pixels(image.get_selection(), Gegl.Rectangle.new(left, top, width, height), "Y u8")
    if not any(value > 127 for value in set(selected)):
        raise ServerError("Nothing is selected on this layer. Select what is to go.")
    photo = _photo(image, drawable)
    mask = encode_png(selected, width, height, channels=1)
    settings = {name: config.get_property(name) for name in ("address", "key", "quality")}
    Gimp.progress_init("The server erases what is selected…")
    news: list[str] = []
    png = _while_pulsing(lambda: repair(image=photo, mask=mask, on_wait=news.append, **settings), news)
    _insert(image, drawable, png)


def _photo(image: Any, drawable: Any) -> bytes:
    """Return a layer as a PNG file with the image's colour profile, so that no value is converted on either way."""
    width, height = drawable.get_width(), drawable.get_height()
    bits = 8 if image.get_precision() in _precisions_of_8_bits() else 16
    precision = Gimp.Precision.U8_NON_LINEAR if bits == 8 else Gimp.Precision.U16_NON_LINEAR
    kind = Gimp.ImageBaseType.GRAY if drawable.is_gray() else Gimp.ImageBaseType.RGB
    profile = image.get_color_profile()
    # An image of its own, as GEGL has no name for a format in the colours of a profile: only a buffer has such a one.
    scratch = Gimp.Image.new_with_precision(width, height, kind, precision)
    try:
        if profile is not None:
            scratch.set_color_profile(profile)
        layer = Gimp.Layer.new_from_drawable(drawable, scratch)
        scratch.insert_layer(layer, None, 0)  # so that it goes with the image
        pixels = _pixels(layer, Gegl.Rectangle.new(0, 0, width, height), None)
        channels = layer.get_bpp() * 8 // bits
    finally:
        scratch.delete()
    icc = None if profile is None else bytes(profile.get_icc_profile())
    return encode_png(pixels, width, height, channels=channels, bits=bits, icc=icc)


def _pixels(drawable: Any, rectangle: Any, pixel_format: str | None) -> bytes:
    """Return a drawable's values as bytes, None: as they are; outside it there is nothing selected."""
    return bytes(drawable.get_buffer().get(rectangle, 1.0, pixel_format, Gegl.AbyssPolicy.NONE))


def _precisions_of_8_bits() -> tuple[Any, ...]:
    return (Gimp.Precision.U8_LINEAR, Gimp.Precision.U8_NON_LINEAR, Gimp.Precision.U8_PERCEPTUAL)


def _while_pulsing(work: Callable[[], bytes], news: list[str]) -> bytes:
    """Do something that takes long beside GIMP's progress bar, and return what came of it; `news` is shown there."""
    outcome: dict[str, Any] = {}

    def do() -> None:
        try:
            outcome["result"] = work()
        except Exception as error:  # raised again in the thread that GIMP knows
            outcome["error"] = error

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    while thread.is_alive():
        while news:  # here, as GIMP knows this thread alone
            Gimp.progress_set_text(news.pop(0))
        Gimp.progress_pulse()
        thread.join(PULSE_S)
    Gimp.progress_end()
    if "error" in outcome:
        raise outcome["error"]
    return bytes(outcome["result"])


def _insert(image: Any, drawable: Any, png: bytes) -> None:
    """Load the answer as a layer directly above the one it was made from, as one step of undo."""
    handle, path = tempfile.mkstemp(suffix=".png")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(png)
        image.undo_group_start()
        try:
            layer = Gimp.file_load_layer(Gimp.RunMode.NONINTERACTIVE, image, Gio.File.new_for_path(path))
            layer.set_name(f"{drawable.get_name()} (erased)")
            image.insert_layer(layer, drawable.get_parent(), image.get_item_position(drawable))
            _, left, top = drawable.get_offsets()
            layer.set_offsets(left, top)
        finally:
            image.undo_group_end()
    finally:
        Path(path).unlink()
    Gimp.displays_flush()


if __name__ == "__main__":
    Gimp.main(Fftlama.__gtype__, sys.argv)
