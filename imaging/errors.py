"""The one exception of this room: what a caller can tell a person about a file, a mask or a stroke.

Codes: `empty_file`, `file_too_large`, `image_too_large`, `not_an_image`, `truncated_image`, `mask_size`,
`bad_mask`, `bad_strokes`, `bad_options`, `too_large_for_format`.
"""

from typing import Any


class ImagingError(ValueError):
    """A refusal with a stable `code`, an English sentence `message` and the `params` that the sentence mentions."""

    def __init__(self, code: str, message: str, **params: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.params: dict[str, Any] = params


def not_an_image(detail: str) -> ImagingError:
    """Make the refusal of bytes that no reader here understands; `detail` ends the sentence."""
    return ImagingError("not_an_image", f"This file cannot be read as an image: {detail}.", detail=detail)


def truncated_image(format_name: str) -> ImagingError:
    """Make the refusal of a file that breaks off or is damaged."""
    message = f"This {format_name} file is incomplete or damaged; please save or download it again."
    return ImagingError("truncated_image", message, format=format_name)


def of_mask(refusal: ImagingError) -> ImagingError:
    """Make the refusal of a mask's file out of that of a picture: of photo and mask either may be wrong."""
    message = f"The mask cannot be used: {refusal.message[0].lower()}{refusal.message[1:]}"
    return ImagingError(refusal.code, message, **refusal.params)


def raw_file() -> ImagingError:
    """Make the refusal of a camera's raw file, whose only ready picture is a small preview."""
    return not_an_image("it is a camera's raw file. Develop it first and save it as TIFF, PNG or JPEG")


def too_large_for_format(format_name: str, width_px: int, height_px: int) -> ImagingError:
    """Make the refusal to write a picture in a format that cannot hold its size."""
    message = f"An image of {width_px} x {height_px} pixels cannot be saved as {format_name}; PNG can hold it."
    return ImagingError("too_large_for_format", message, format=format_name, width=width_px, height=height_px)


def image_too_large(width_px: int, height_px: int, max_px: int) -> ImagingError:
    """Make the refusal of a picture with more pixels than allowed."""
    message = (
        f"The image is {width_px} x {height_px} pixels ({width_px * height_px / 1e6:.1f} megapixels); "
        f"at most {max_px / 1e6:g} megapixels are allowed."
    )
    return ImagingError("image_too_large", message, width=width_px, height=height_px, max_mpx=round(max_px / 1e6, 6))
