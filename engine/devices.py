"""Where a model runs and in which precision: the choice, and what a device says of itself.

Owns `choose_placement` and its parts, the errors that mean "out of memory", and the thread count while loading. Knows
no model and no photos.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from engine.profiles import Card, Profile, ProfileError, choose_profile
from engine.requests import UnavailableError
from lama.device_errors import first_line, is_out_of_memory
from lama.devices import cpu_supports_bf16

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
LOADING_THREADS = 4
# CUDA and HIP, of a card that is older or newer than those the build was made for.
NO_KERNELS = ("no kernel image is available", "invalid device function")
OTHER_BUILD = (
    "Another build of PyTorch may know this card: start with TORCH_BACKEND=auto ./start_app.sh, or with"
    " TORCH_BACKEND=cu126 for older cards."
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placement:
    """How a model runs on this machine.

    Attributes:
        device: "cpu", "mps" or "cuda:N", with its number.
        precision: "fp16", "bf16" or "fp32".
        profile: buckets, batch, graph mode and memory fraction.
        reason: a sentence that says why it is this profile.
    """

    device: torch.device
    precision: str
    profile: Profile
    reason: str


def choose_placement(device: str, precision: str, profile: Profile | str | None) -> Placement:
    """Choose device, precision and profile.

    Args:
        device: "auto", "cpu", "mps", "cuda" or "cuda:N".
        precision: "auto" (the profile's, or what the CPU is fast at), "fp16", "bf16" or "fp32".
        profile: a profile, the name of one, or None for the card's own.

    Returns:
        the device, the precision as a dtype's name, the profile, and why it was chosen.

    Raises:
        UnavailableError: this machine does not have the requested device, precision or profile.
    """
    chosen, obstacle = _choose(device)
    chosen_profile, reason = pick_profile(describe_card(chosen), profile)
    if obstacle:
        logger.warning("%s The CPU computes, which is slower. %s", obstacle, OTHER_BUILD)
        # As where a card has no room for the weights: what was asked of the card is not asked of the CPU.
        precision, reason = "fp32" if precision == "fp32" else "auto", f"{obstacle} {reason}"
    return Placement(chosen, choose_precision(precision, chosen_profile, chosen), chosen_profile, reason)


def choose_device(device: str) -> torch.device:
    """Choose the device to run on.

    Args:
        device: "auto", "cpu", "mps", "cuda" or "cuda:N". "auto" takes the first card, or the CPU where there is none or
            PyTorch can't compute on it. It never takes MPS, which is untested.

    Returns:
        the device, with its index if it is a card.

    Raises:
        UnavailableError: the name is unknown, this machine does not have the device, or PyTorch can't compute on it.
    """
    return _choose(device)[0]


def _choose(device: str) -> tuple[torch.device, str]:
    """Return the device, and a sentence that says why it is not the card that "auto" would take, or ""."""
    if device == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu"), ""
        card = torch.device("cuda", torch.cuda.current_device())
        obstacle = _obstacle_on(card)
        return (torch.device("cpu"), obstacle) if obstacle else (card, "")
    chosen = _named(device)
    obstacle = _obstacle_on(chosen) if chosen.type == "cuda" else ""
    if obstacle:
        raise UnavailableError(f"device {device!r} was asked for. {obstacle} {OTHER_BUILD} Or use device auto or cpu.")
    return chosen, ""


def _obstacle_on(card: torch.device) -> str:
    """Return a sentence that says why PyTorch can't compute on a card that it sees, or ""."""
    try:
        torch.ones(1, device=card).add_(1).item()
    except RuntimeError as error:
        if is_out_of_memory(error):
            return ""  # the card is full now; what then happens is decided where the weights are loaded
        found = describe_card(card)
        capability = "" if found.capability is None else " ({}.{})".format(*found.capability)
        if any(words in str(error) for words in NO_KERNELS):
            return f"PyTorch {torch.__version__} has no kernels for {found.name}{capability}."
        return f"PyTorch {torch.__version__} can't compute on {found.name}{capability}: {first_line(error)}."
    return ""


def _named(device: str) -> torch.device:
    """Return the device of a name other than "auto"."""
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        chosen = torch.device("meta")
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise UnavailableError(f"device must be auto, cpu, mps, cuda or cuda:N, got {device!r}")
    if chosen.type == "mps":
        if not torch.backends.mps.is_available():
            raise UnavailableError("device 'mps' was asked for, but PyTorch offers none here; try auto")
        return torch.device("mps")
    if chosen.type == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (chosen.index or 0) >= count:
        raise UnavailableError(f"device {device!r} was asked for, but PyTorch sees {count} CUDA devices; try auto")
    return torch.device("cuda", chosen.index if chosen.index is not None else torch.cuda.current_device())


def describe_card(device: torch.device) -> Card:
    """Return what the profile is chosen by."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return Card(properties.name, (properties.major, properties.minor), properties.total_memory >> 20)
    if device.type == "mps":
        return Card("Apple GPU (MPS, untested)")
    return Card("CPU with bf16" if cpu_is_fast_in_bf16() else "CPU")


def pick_profile(card: Card, profile: Profile | str | None) -> tuple[Profile, str]:
    """Pick the profile to run with.

    Args:
        card: what the profiles are matched on.
        profile: a profile, the name of one, or None for the card's own.

    Returns:
        the profile, and the reason as a sentence.

    Raises:
        UnavailableError: no profile has that name, or a profiles file holds something impossible.
    """
    if isinstance(profile, Profile):
        return profile, f"The profile {profile.name} was given by the caller."
    if not isinstance(profile, str | None):
        raise UnavailableError(
            f"profile must be a profile, the name of one, or None for the card's own, got {profile!r}"
        )
    try:
        return choose_profile(card, name=profile or "auto")
    except ProfileError as error:
        raise UnavailableError(str(error)) from error


def choose_precision(precision: str, profile: Profile, device: torch.device) -> str:
    """Choose the precision of the network.

    Args:
        precision: "fp16", "bf16", "fp32", or "auto": the profile's on a card, on a CPU what it multiplies natively.
        profile: in use on the device.
        device: that the network runs on.

    Returns:
        "fp16", "bf16" or "fp32".

    Raises:
        UnavailableError: the name is unknown, or the device can't compute in this precision.
    """
    if precision != "auto" and precision not in DTYPES:
        raise UnavailableError(f"precision must be auto, {', '.join(DTYPES)}, got {precision!r}")
    if device.type == "cuda":
        return profile.precision if precision == "auto" else precision
    if device.type == "mps":
        if precision not in ("auto", "fp32"):
            raise UnavailableError(f"precision {precision} is untested on MPS; use auto or fp32")
        return "fp32"
    if precision == "fp16":
        raise UnavailableError("precision fp16 needs a CUDA device; on a CPU use auto, bf16 or fp32")
    if precision == "bf16" and not cpu_supports_bf16():
        raise UnavailableError(
            "precision bf16 needs a CPU with AVX-512 or better, which this one lacks; use auto or fp32"
        )
    if precision == "auto":
        return "bf16" if profile.precision != "fp32" and cpu_is_fast_in_bf16() else "fp32"
    return precision


def cpu_is_fast_in_bf16() -> bool:
    """Tell whether this CPU multiplies bfloat16 natively; oneDNN emulates it on other AVX-512, slower than float32."""
    if not cpu_supports_bf16():
        return False
    if hasattr(torch.cpu, "get_capabilities"):  # newer than PyTorch 2.11
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return bool(torch.cpu._is_avx512_bf16_supported())


@contextlib.contextmanager
def few_threads() -> Iterator[None]:
    """Use at most four threads: loading is many small steps, each of which waits until every thread has a free core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(min(threads, LOADING_THREADS))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
