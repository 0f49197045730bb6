"""Networks with fixed weights, and images for them."""

import torch

from stillhouse.spaces.network_spec import NetworkSpec

CIFAR = (3, 32, 32)


def build_network(spec, shape=CIFAR, classes=10, device="cpu"):
    """The network of ``spec`` in training mode, initialised from seed 0."""
    torch.manual_seed(0)
    with torch.device(device):
        return NetworkSpec.parse(spec).build(shape, classes)


def random_images(batch=2, shape=CIFAR, seed=1):
    """Images [batch, *shape] with values in 0..1."""
    return torch.rand((batch, *shape), generator=torch.Generator().manual_seed(seed))
