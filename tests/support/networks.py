"""Random networks and inputs for the tests of `lama`."""

import torch

from lama.generator import Generator


def live_generator(
    width: int = 32, blocks: int = 2, *, seed: int = 0, variance: tuple[float, float] = (0.5, 2)
) -> Generator:
    """A generator with random weights whose batch-norms do something."""
    torch.manual_seed(seed)
    return enliven(Generator(width=width, blocks=blocks), variance=variance)


def enliven(generator: Generator, *, variance: tuple[float, float] = (0.5, 2)) -> Generator:
    """Give a generator batch-norm statistics and affine parameters that matter, as training would; return it."""
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            assert module.num_batches_tracked is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(*variance)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
            module.num_batches_tracked.fill_(7)
    return generator.eval()


def masked_input(height: int, width: int, *, batch: int = 1, seed: int = 1) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    image = torch.rand(batch, 3, height, width, generator=random)
    hole = (torch.rand(batch, 1, height, width, generator=random) > 0.7).float()
    return torch.cat([image * (1 - hole), hole], dim=1)
