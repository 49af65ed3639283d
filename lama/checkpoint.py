"""Load a generator from every weight file people have, and save one.

Accepted: the embedded weights (None); `.safetensors`; a LaMa training checkpoint or plain state dict (`.ckpt`, `.pth`,
`.pt`, old and new layout); a TorchScript archive such as `big-lama.pt`, whose code is never executed. What a file is
is read off its first bytes, never off its name. The parameters may have any prefix before `model.`; whatever else is in
the file (discriminator, losses, optimiser) is ignored and not even read. Width and depth are read off the tensors.

Nothing in a file is run or imported, and the network is never opened.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lama.catalogue import embedded_path
from lama.generator import INPUT_CHANNELS, Generator
from lama.safe_unpickle import CheckpointError
from lama.torch_archive import TorchFile, open_legacy, open_zip

__all__ = ["EMBEDDED_WEIGHTS", "CheckpointError", "load_generator", "save_generator"]

EMBEDDED_WEIGHTS = embedded_path()

AFTER_STEM = "1.bn_l.running_mean"  # the batch-norm of the first layer
STEM = "1.ffc.convl2l.weight"  # (width, 4, 7, 7), after "model."
BLOCK = re.compile(r"(\d+)\.conv1\.ffc\.convl2l\.weight")
LONGEST_HEADER_BYTES = 8 << 20  # LaMa's is 60 kB, large diffusion models' about 500 kB; the format allows 100 MB
FORMATS_LIMIT_BYTES = 100_000_000
MOST_TENSORS = 100_000  # a training checkpoint of the published LaMa has about 3,000
WIDEST = 512
DEEPEST = 256
COUNTER = "num_batches_tracked"  # only training reads it, and converters drop it

EXPECTED = "Expected a LaMa generator: .safetensors, a training checkpoint (.ckpt, .pth) or the TorchScript big-lama.pt"
TOO_MANY = "which is more than any network's tensors need"
HOW_TO_GET = "`fftlama weights get big-lama` fetches the published one"

# First match wins: a name that one network has and LaMa has not, and what to call that network.
OTHER_NETWORKS = (
    (r"\.lfu\.", "an FFC network with local Fourier units, which LaMa leaves out"),
    (r"(^|\.)model\.1\.weight$", "a LaMa without Fourier convolutions (a ResNet generator)"),
    (r"diffusion_model\.|(^|\.)(down_blocks|up_blocks)\.|^conv_in\.", "a diffusion model"),
    (r"(image_encoder|mask_decoder|prompt_encoder)\.", "a Segment Anything model"),
    (r"(^|\.)(body|RDB|rdb)\.?\d+\.(rdb|RDB|conv)", "an upscaler (ESRGAN)"),
    (r"(^|\.)discriminator\.", "a discriminator, the half of the training that is not the generator"),
    (r"synthesis\.b\d+|(^|\.)mapping\.fc", "a StyleGAN-like network (MAT, CoModGAN)"),
    (r"(attn|attention|q_proj|k_proj)\.", "a transformer"),
    (r"(^|\.)layer\d\.\d+\.conv\d\.weight$", "a ResNet"),
    (r"(^|\.)features\.\d+\.", "an image classifier (VGG, SqueezeNet, MobileNet, …)"),
)


class _Tensors:
    """The tensors of any file: names and shapes without reading, numbers on demand."""

    def __init__(self, kind: str, shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], torch.Tensor]) -> None:
        self.kind = kind
        self.shapes = shapes
        self.read = read


def load_generator(path: str | Path | None = None) -> Generator:
    """Load a generator from a weight file.

    Args:
        path: a file of any kind listed above; None means the embedded weights, wherever the program was started from.

    Returns:
        a generator in eval mode, float32, on the CPU, whatever dtype and device the file was saved from.

    Raises:
        CheckpointError: the file is missing, damaged, of another network or matches only in part.
    """
    try:
        file = EMBEDDED_WEIGHTS if path is None else Path(path).expanduser()
    except RuntimeError as error:  # there is no such person, or this one has no home
        raise CheckpointError(f"{path} begins with a home folder that does not exist") from error
    _refuse_what_is_no_file(file, embedded=path is None)
    try:
        return _build(_open(file))
    except CheckpointError as error:
        raise CheckpointError(f"{file} {error}") from error.__cause__
    except OSError as error:
        raise CheckpointError(f"{file} can't be read: {error.strerror or error}") from error


def save_generator(generator: Generator, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a generator's weights to a `.safetensors` file: convolutions in float16, vectors in float32.

    Args:
        generator: not modified.
        path: appears complete or not at all; an existing file is replaced.
        metadata: goes into the file's header beside width and blocks.

    Raises:
        CheckpointError: a weight does not fit float16 or is not finite.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, value in generator.state_dict().items():
        # Batch-norm statistics are a thousandth of the file and span more than float16 does.
        dtype = value.dtype if not value.is_floating_point() else torch.float16 if value.ndim > 1 else torch.float32
        tensors[name] = value.detach().to("cpu", dtype).contiguous()
        if value.is_floating_point() and not torch.isfinite(tensors[name]).all():
            raise CheckpointError(f"{name} has values that are not finite in {dtype}; the weights were not saved")
    header = {"format": "pt", "width": str(generator.width), "blocks": str(generator.blocks), **(metadata or {})}
    from imaging.atomic_write import part_file  # late: to start and only read takes a twentieth of a second less

    path = Path(path)
    with part_file(path) as part:
        part.write_bytes(save(tensors, metadata=header))  # save_file's are for their owner alone, not for a service


def _refuse_what_is_no_file(file: Path, *, embedded: bool) -> None:
    if file.is_dir():
        inside = sorted(file.glob("models/*.ckpt")) + sorted(file.glob("*.ckpt")) + sorted(file.glob("*.safetensors"))
        hint = f"; give the file in it: {inside[0]}" if inside else ""
        raise CheckpointError(f"{file} is a folder, not a weight file{hint}")
    if not file.exists():
        if embedded:
            raise CheckpointError(
                f"the embedded weights {file} are missing: the checkout is incomplete; clone it again"
            )
        raise CheckpointError(f"{file} does not exist; {HOW_TO_GET}")
    if not file.is_file():
        raise CheckpointError(f"{file} is a device or pipe, not a weight file")


def _open(file: Path) -> _Tensors:
    """Recognise a file by its first bytes. Raises CheckpointError for what holds no weights, saying what it is."""
    with file.open("rb") as stream:
        start = stream.read(1024)
    size = file.stat().st_size
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if size == 0:
        raise CheckpointError(f"is empty; {HOW_TO_GET}")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            "is a Git LFS pointer, not the weights it stands for; run `git lfs pull` in its repository"
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        raise CheckpointError(
            "is a web page saved under this name: the download link led to a page, not to the file; "
            f"use the page's download button. {HOW_TO_GET}"
        )
    if start.startswith(b"PK"):
        return _from_torch(open_zip(file))
    header_bytes = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and header_bytes <= FORMATS_LIMIT_BYTES:
        if header_bytes > LONGEST_HEADER_BYTES:
            raise CheckpointError(f"is a .safetensors file with a header of {header_bytes >> 20} MiB, {TOO_MANY}")
        if size < 8 + header_bytes:
            raise CheckpointError("is a truncated .safetensors file; download or copy it again")
        return _from_safetensors(file)
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
        return _from_torch(open_legacy(file))
    raise CheckpointError(f"is {_describe_start(start)}. {EXPECTED}; {HOW_TO_GET}")


def _describe_start(start: bytes) -> str:
    known = (
        (b"\x1f\x8b", "a gzip archive: unpack it first"),
        (b"Rar!", "a RAR archive: unpack it first"),
        (b"7z\xbc\xaf", "a 7-Zip archive: unpack it first"),
        (b"\x89PNG", "a PNG image"),
        (b"\xff\xd8\xff", "a JPEG image"),
        (b"\x89HDF", "an HDF5 file (Keras)"),
        (b"GGUF", "a GGUF language model"),
        (b"{", "a JSON text, perhaps a server's error message"),
        (b"%PDF", "a PDF"),
    )
    for magic, name in known:
        if start.startswith(magic):
            return name
    if start[257:262] == b"ustar":
        return "a tar archive: unpack it first"
    if all(byte >= 32 or byte in b"\t\r\n" for byte in start):
        return "a text file"
    return "no weight file of a known kind, or its beginning is damaged"


def _from_torch(file: TorchFile) -> _Tensors:
    return _Tensors(file.kind, {name: record.shape for name, record in file.records.items()}, file.read)


def _from_safetensors(file: Path) -> _Tensors:
    try:
        content = safe_open(file, framework="pt", device="cpu")
        shapes = {name: tuple(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"is a damaged or truncated .safetensors file ({error}); download it again") from error
    return _Tensors(".safetensors file", shapes, content.get_tensor)


def _build(tensors: _Tensors) -> Generator:
    """Find the generator among the tensors, check it against the architecture its tensors imply, and load it."""
    if len(tensors.shapes) > MOST_TENSORS:
        raise CheckpointError(f"is a {tensors.kind} of {len(tensors.shapes)} tensors, more than any network has")
    prefix = _choose_prefix(tensors)
    shapes = {name.removeprefix(prefix): shape for name, shape in tensors.shapes.items() if name.startswith(prefix)}
    width, blocks = _architecture(shapes)
    with torch.device("meta"):  # names and shapes only: the numbers come from the file
        generator = Generator(width, blocks)
    expected = {name.removeprefix("model."): value for name, value in generator.state_dict().items()}
    _check_match(shapes, {name: tuple(value.shape) for name, value in expected.items()}, width, blocks)

    state: dict[str, torch.Tensor] = {}
    for name, value in expected.items():
        if name in shapes:
            read = tensors.read(prefix + name)
            # A copy in any case: what comes from .safetensors is a view of the file, which may be replaced.
            state[f"model.{name}"] = read.to(value.dtype, copy=True)
            if read.is_complex() or not torch.isfinite(state[f"model.{name}"]).all():
                raise CheckpointError(f"has values that are no finite numbers, in {prefix}{name}; it can't be used")
        else:
            state[f"model.{name}"] = torch.zeros((), dtype=value.dtype)
    generator.load_state_dict(state, strict=True, assign=True)
    return generator.eval()


def _choose_prefix(tensors: _Tensors) -> str:
    """Return what precedes the generator's first layer, up to and with "model.".

    LaMa's own prediction uses `generator`, not an averaged copy beside it, so that one wins; then a module of that name
    rather than one whose name only ends so (`ema_model.`); then the shortest.
    """
    ending = f"model.{STEM}"
    found = [name.removesuffix(STEM) for name in tensors.shapes if name.endswith(ending)]
    if not found and (rest := [name for name in tensors.shapes if name.endswith(f"model.{AFTER_STEM}")]):
        missing = rest[0].removesuffix(AFTER_STEM) + STEM
        raise CheckpointError(f"is a LaMa generator without its first layer, {missing}; {HOW_TO_GET}")
    if not found:
        raise CheckpointError(f"is {_describe_network(tensors)}. {EXPECTED}; {HOW_TO_GET}")

    def rank(prefix: str) -> tuple[bool, bool, int, str]:
        dotted = f".{prefix}"
        return not dotted.endswith(".generator.model."), not dotted.endswith(".model."), len(prefix), prefix

    return min(found, key=rank)


def _describe_network(tensors: _Tensors) -> str:
    names = [name for name in tensors.shapes if name]  # a tensor saved by itself has none
    if not names:
        return f"a {tensors.kind} without any named weights in it"
    for pattern, description in OTHER_NETWORKS:
        if any(re.search(pattern, name) for name in names):
            return f"a {tensors.kind} of another network: {description}"
    return f"a {tensors.kind} of another network: {len(names)} tensors such as {', '.join(names[:3])}"


def _architecture(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
    stem = shapes[STEM]
    blocks = sum(1 for name in shapes if BLOCK.fullmatch(name))
    if len(stem) != 4 or stem[1:] != (INPUT_CHANNELS, 7, 7) or not 1 <= stem[0] <= WIDEST:
        raise CheckpointError(f"has a first layer of shape {stem}; expected (width, 4, 7, 7), width up to {WIDEST}")
    if not 1 <= blocks <= DEEPEST:
        raise CheckpointError(f"has {blocks} residual blocks; expected 1 to {DEEPEST}")
    return stem[0], blocks


def _check_match(
    got: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], width: int, blocks: int
) -> None:
    """Raise CheckpointError with a summary unless names and shapes are those of Generator(width, blocks)."""
    missing = [name for name in expected if name not in got and not name.endswith(COUNTER)]
    unexpected = [name for name in got if name not in expected]
    misshapen = [
        f"{name} {got[name]} instead of {shape}" for name, shape in expected.items() if got.get(name, shape) != shape
    ]
    faults = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if names
    ]
    if faults:
        raise CheckpointError(
            f"does not match a LaMa generator of width {width} with {blocks} blocks: tensors {'; '.join(faults)}"
        )
