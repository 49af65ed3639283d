"""The generator in inference form: the same function as `generator.Generator`, computed faster.

Batch-norms are folded (`fold_batchnorm`), parallel convolutions are merged, and the Fourier transform is a product with
matrices (`dft`). Two backends compute it: plain PyTorch (`torch_backend`) anywhere, and Triton kernels
(`triton_backend`) on CUDA in float16. The choice is made once, at construction, and `describe` gives its reason.
"""

import contextlib
import importlib.util
import os
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lama.device_errors import is_out_of_memory, named_line
from lama.devices import on_card
from lama.fold_batchnorm import FoldedNetwork, fold_generator
from lama.generator import INPUT_CHANNELS, Generator, check_input_shape
from lama.torch_backend import TorchBackend
from lama.triton_start import prepare_triton

KERNEL_CHOICES = ("auto", "torch", "triton")
KERNEL_CHANNEL_MULTIPLE = 32  # width of the narrowest tile; width 32 and 64 networks fit, odd ones run in plain PyTorch
KERNEL_CAPABILITY = (8, 0)  # Triton leaves the matrix units of older cards idle: cuDNN is faster there
TRIAL_SIZE_PX = 64


class FastGenerator(nn.Module):
    """A generator for inference, with its own copy of the weights.

    Args:
        generator: the network as published; read and not modified.
        device: where it runs.
        dtype: the type it computes in: float32 anywhere, float16 on CUDA, bfloat16 on the CPU.
        kernels: "auto" (Triton where it can run, else plain PyTorch), "torch" or "triton".
        fp8: in float16 on a Hopper card, the trunk's 3x3 convolutions of large maps multiply in FP8. Elsewhere this
            changes nothing.

    Raises:
        ValueError: `kernels` is none of these, or "triton" where Triton can't run.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        device: torch.device | str,
        dtype: torch.dtype,
        kernels: str = "auto",
        fp8: bool = False,
    ) -> None:
        super().__init__()
        if kernels not in KERNEL_CHOICES:
            raise ValueError(f"kernels must be one of {', '.join(KERNEL_CHOICES)}, got {kernels!r}")
        self.device = torch.device(device)
        self.dtype = dtype
        network = fold_generator(generator)
        backend: nn.Module | None = None
        if kernels == "torch":
            self.reason = "asked for"
        else:
            backend, obstacle = _triton_backend(network, generator.width, self.device, dtype, fp8=fp8)
            if backend is None and kernels == "triton":
                raise ValueError(f"the Triton kernels cannot run: {obstacle}")
            self.reason = obstacle or ("asked for" if kernels == "triton" else "fastest here")
        self.uses_triton = backend is not None
        self.backend: nn.Module = backend or TorchBackend(network, device=self.device, dtype=dtype)
        self.eval()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Predict an image from a masked one, as `Generator.forward`.

        Args:
            x: (B, 4, H, W), any floating type and memory format, on this generator's device: RGB in [0, 1] with the
                hole set to 0, then the mask. H and W are multiples of 8, from 16 up. Not modified.

        Returns:
            (B, 3, H, W) float32 in [0, 1], freshly allocated.

        Raises:
            ValueError: `x` has another shape.
        """
        check_input_shape(tuple(x.shape))
        with on_card(self.device), _full_float32(self.device, self.dtype):
            return self.backend(x)

    @property
    def has_fp8(self) -> bool:
        """Whether large maps are multiplied in FP8."""
        return self.uses_triton and bool(self.backend.has_fp8)

    def describe(self) -> str:
        """Say in one line what computes the network and why."""
        name = "Triton kernels" if self.uses_triton else "plain PyTorch"
        precision = str(self.dtype).removeprefix("torch.")
        said = f"{name} on {self.device}, {precision} ({self.reason})"
        return f"{said}; {self.backend.hopper_kernels}" if self.uses_triton else said


def why_not_triton(width: int, device: torch.device, dtype: torch.dtype) -> str:
    """Say what keeps the Triton kernels from running, or return an empty string."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if dtype != torch.float16:
        return f"the kernels are float16, not {str(dtype).removeprefix('torch.')}"
    if width % KERNEL_CHANNEL_MULTIPLE:
        return f"the kernels need a width that is a multiple of {KERNEL_CHANNEL_MULTIPLE}, not {width}"
    if device.type == "cuda" and torch.version.hip is None:
        capability = torch.cuda.get_device_capability(device)
        if capability < KERNEL_CAPABILITY:
            return f"compute capability {capability[0]}.{capability[1]} is too old"
        return ""
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    return f"no kernels for {device.type}"


def _triton_backend(
    network: FoldedNetwork, width: int, device: torch.device, dtype: torch.dtype, *, fp8: bool
) -> tuple[nn.Module | None, str]:
    """Build the Triton backend and run it once on a small input, or say why not: (backend or None, obstacle)."""
    obstacle = why_not_triton(width, device, dtype)
    if obstacle:
        return None, obstacle
    # Here and not in the try: a kernel module that is missing or broken is an error, not a slower GPU. Imported late,
    # because Triton comes with CUDA builds of PyTorch only.
    from lama.triton_backend import TritonBackend

    if device.type == "cuda":
        prepare_triton()
    try:
        with on_card(device):
            backend = TritonBackend(network, device=device, fp8=fp8)
            if device.type == "cuda":
                trial = backend(torch.zeros(1, INPUT_CHANNELS, TRIAL_SIZE_PX, TRIAL_SIZE_PX, device=device))
                torch.cuda.synchronize(device)
        if device.type == "cuda" and not bool(trial.isfinite().all()):
            return None, "the kernels gave no finite result in a trial"
    except Exception as error:  # a compiler or driver of any kind: slower is better than not at all
        if is_out_of_memory(error):
            raise  # not the kernels' fault, and plain PyTorch needs more
        return None, f"the kernels failed in a trial: {named_line(error)}"
    return backend, ""


@contextlib.contextmanager
def _full_float32(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """float32 means float32: no TF32 (10 bits) in cuDNN, which PyTorch allows by default."""
    if device.type != "cuda" or dtype != torch.float32:
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
        yield
