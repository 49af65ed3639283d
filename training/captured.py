"""A function captured as a CUDA graph, which replays it on the tensors it worked on; on a CPU the function itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


def captured(
    function: Callable[[], None], owner: object, *, changed: Sequence[torch.Tensor], device: torch.device
) -> Callable[[], None]:
    """Capture a function that works on the tensors among an object's attributes.

    Args:
        function: runs one part of a step.
        owner: whose attributes it works on.
        changed: tensors that running it changes and that come back as they were.
        device: where they lie.

    Returns:
        What replays it; on a CPU the function itself.

    Raises:
        RuntimeError: it puts one of the owner's tensors elsewhere instead of writing into it.
    """
    kept = [tensor.clone() for tensor in changed]
    before = _places(owner)
    if device.type != "cuda":
        function()
        replay = function
    else:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                function()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            function()
        replay = graph.replay
    moved = [name for name, place in _places(owner).items() if before.get(name) != place]
    if moved:
        raise RuntimeError(f"a captured step has to write into {', '.join(moved)}, not to put another in its place")
    for tensor, value in zip(changed, kept, strict=True):
        tensor.copy_(value)
    return replay


def _places(owner: object) -> dict[str, int]:
    """Where each tensor among the attributes lies."""
    return {name: value.data_ptr() for name, value in vars(owner).items() if isinstance(value, torch.Tensor)}
