"""What runs inside GIMP 3 for `tests/examples/test_gimp_itself.py`; GIMP's Python reads it, this project's never does.

Asks the plug-in for each case, writes the layer's and the answer's bytes beside the photo, and one JSON file of all.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gi.repository import Gegl, Gimp, Gio

FOLDER = Path(os.environ["FFTLAMA_GIMP_FOLDER"])
SERVER = os.environ["FFTLAMA_GIMP_SERVER"]
NO_QUESTIONS = Gimp.RunMode.NONINTERACTIVE


def load() -> Any:
    """Return the photo with the same part selected, each time."""
    image = Gimp.file_load(NO_QUESTIONS, Gio.File.new_for_path(str(FOLDER / "photo.png")))
    image.select_rectangle(Gimp.ChannelOps.REPLACE, 40, 30, 50, 40)
    return image


def erase(image: Any, drawables: list[Any], **settings: str) -> list[str]:
    """Call the plug-in; return its status and sentence."""
    procedure = Gimp.get_pdb().lookup_procedure("plug-in-fftlama-erase")
    config = procedure.create_config()
    config.set_property("run-mode", NO_QUESTIONS)
    config.set_property("image", image)
    config.set_core_object_array("drawables", drawables)
    for name, value in {"address": SERVER, **settings}.items():
        config.set_property(name, value)
    status = procedure.run(config).index(0).value_nick
    return [status, Gimp.get_pdb().get_last_error()]


def bytes_of(layer: Any) -> bytes:
    """Return a layer's values as GIMP holds them."""
    whole = Gegl.Rectangle.new(0, 0, layer.get_width(), layer.get_height())
    return bytes(layer.get_buffer().get(whole, 1.0, None, Gegl.AbyssPolicy.NONE))


def repaired(name: str, change: Callable[[Any], Any]) -> dict[str, Any]:
    """Erase from the layer that `change` leaves in a fresh image; tell what lies above it then."""
    image = load()
    layer = change(image) or image.get_layers()[0]
    (FOLDER / f"{name}-before.bin").write_bytes(bytes_of(layer))
    outcome = erase(image, [layer])
    parent = layer.get_parent()
    beside = parent.get_children() if parent else image.get_layers()
    above = beside[[each.get_id() for each in beside].index(layer.get_id()) - 1]
    (FOLDER / f"{name}-after.bin").write_bytes(bytes_of(above))
    offset = list(above.get_offsets())[1:]
    row = {"outcome": outcome, "name": above.get_name(), "offset": offset, "bytes_per_pixel": above.get_bpp()}
    image.delete()
    return row


def in_group(image: Any) -> Any:
    """Move the layer into a group."""
    group = Gimp.GroupLayer.new(image, "group")
    image.insert_layer(group, None, 0)
    inner = image.get_layers()[1].copy()
    image.insert_layer(inner, group, 0)
    return inner


CHANGES: dict[str, Callable[[Any], Any]] = {
    "plain": lambda image: None,
    "alpha": lambda image: image.get_layers()[0].add_alpha() and None,
    "grey": lambda image: image.convert_grayscale() and None,
    "sixteen": lambda image: image.convert_precision(Gimp.Precision.U16_NON_LINEAR) and None,
    "profile": lambda image: image.set_color_profile(Gimp.ColorProfile.new_rgb_adobe()) and None,
    "group": in_group,
    "beside": lambda image: image.get_layers()[0].set_offsets(-30, 25) and None,
    "soft": lambda image: Gimp.Selection.feather(image, 8) and None,
}


def refusals() -> dict[str, list[str]]:
    """Ask for what can't be."""
    told = {}
    for name in ("nothing", "mask", "two", "nobody", "server"):
        image = load()
        layer = image.get_layers()[0]
        drawables, settings = [layer], {}
        if name == "nothing":
            Gimp.Selection.none(image)
        elif name == "mask":
            mask = layer.create_mask(Gimp.AddMaskType.WHITE)
            layer.add_mask(mask)
            drawables = [mask]
        elif name == "two":
            other = layer.copy()
            image.insert_layer(other, None, 0)
            drawables = [layer, other]
        elif name == "nobody":
            settings = {"address": "http://127.0.0.1:1"}
        else:
            Gimp.Selection.all(image)
        layers = len(image.get_layers())
        told[name] = [*erase(image, drawables, **settings), str(len(image.get_layers()) - layers)]
        image.delete()
    return told


def main() -> None:
    """Do it all."""
    rows = {name: repaired(name, change) for name, change in CHANGES.items()}
    (FOLDER / "told.json").write_text(json.dumps({"version": Gimp.version(), "rows": rows, "refusals": refusals()}))


main()
