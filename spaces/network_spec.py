"""The specification of a network: its family and settings, as an experiment file writes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from stillhouse.spaces.config.named import Named, default_label, split_named
from stillhouse.spaces.config.plugins import PluginRegistry
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.image_view import ChannelValues, ImageView
from stillhouse.spaces.modules.network import Family, Network, Shape, input_form, require_input_form
from stillhouse.spaces.modules.subclasses import with_subclasses
from stillhouse.spaces.networks import FAMILIES, resolve

_MAX_MATERIALISED_PARAMETERS = 10_000_000
"""Networks up to this size are initialised in a fraction of a second."""


@dataclass(frozen=True)
class NetworkSpec(Named[Family]):
    """A family with its settings. ``label`` is the network's name in the experiment.

    ``sees`` is the image view that the network takes; None means the full image. ``subclasses`` is
    the number of subclasses of each class, see ``stillhouse.spaces.modules.subclasses``. Both are
    absent from the plain form at their defaults.
    """

    registry: ClassVar[PluginRegistry[Family]] = FAMILIES
    tag: ClassVar[str] = "family"

    sees: ImageView | None = None
    subclasses: int = 1

    @classmethod
    def parse(cls, data: Any) -> NetworkSpec:
        """From ``resnet20``, ``{resnet20: {...}}`` or ``{family: resnet, depth: 20, ...}``.

        The settings may contain ``sees: {...}`` and ``subclasses: 5``.

        Raises:
            ConfigError: no such network, or settings it does not have.
        """
        if isinstance(data, NetworkSpec):
            return data
        name, values = split_named(data, tag=cls.tag)
        sees, subclasses = values.pop("sees", None), values.pop("subclasses", 1)
        if not isinstance(subclasses, int) or isinstance(subclasses, bool) or subclasses < 1:
            message = f"needs a whole number of 1 or more, found {subclasses!r}"
            raise ConfigError([Problem("subclasses", message)])
        family, settings = resolve({name: values})
        label = data if isinstance(data, str) else _network_label(family, settings)
        spec = cls(label, family, settings)
        spec = spec.with_view(ImageView.parse(sees, "sees")) if sees is not None else spec
        return spec.with_num_subclasses(subclasses)

    def with_view(self, view: ImageView | None) -> NetworkSpec:
        """The same network on a view of images; unchanged if None."""
        if view is None:
            return self
        return replace(self, label=f"{self.label}-{view.label}", sees=view)

    def with_num_subclasses(self, subclasses: int) -> NetworkSpec:
        """The same network with this number of subclasses, also in its label."""
        if subclasses == self.subclasses:
            return self
        label = self.label.removesuffix(f"-subclasses{self.subclasses}")
        label += f"-subclasses{subclasses}" if subclasses > 1 else ""
        return replace(self, label=label, subclasses=subclasses)

    def plain(self) -> dict[str, Any]:
        """The flat form, every setting stated; :meth:`parse` reads it back."""
        sees = {"sees": self.sees.plain()} if self.sees else {}
        split = {"subclasses": self.subclasses} if self.subclasses > 1 else {}
        return {**super().plain(), **sees, **split}

    def build(self, shape: Shape, classes: int) -> Network:
        """A new network for images of ``shape``, initialised from torch's global generator.

        Raises:
            ConfigError: it does not fit these images, or takes texts.
        """
        require_input_form(shape, self.settings.input_form, self.label or self.name)
        if self.sees and input_form(shape) == "text":
            raise ConfigError([Problem("sees", "is a view of images, and texts have none")])
        input_shape, logits = (
            self.sees.shape(shape) if self.sees else shape,
            classes * self.subclasses,
        )
        network = self.settings.build(input_shape, logits)
        network = self.sees.apply_to(network) if self.sees else network
        return with_subclasses(network, self.subclasses) if self.subclasses > 1 else network

    def build_for_shapes(self, shape: Shape, classes: int) -> Network:
        """A network in evaluation mode, for its shapes only.

        A large network is on the meta device. A small one has weights, because a pass of one image
        takes less time than torch needs to prepare for the meta device.

        Raises:
            ConfigError: it does not fit these images, or is too large for any machine.
        """
        try:
            with torch.device("meta"):
                network = self.build(shape, classes)
        except (OverflowError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "overflow" not in str(error):
                raise
            name = self.label or self.name
            raise ConfigError(f"{name} is larger than any machine holds; make it smaller") from None
        if sum(p.numel() for p in network.parameters()) <= _MAX_MATERIALISED_PARAMETERS:
            with torch.random.fork_rng(devices=[]):
                network = self.build(shape, classes)
        return network.eval()

    def normalisation(
        self, mean: ChannelValues, std: ChannelValues
    ) -> tuple[ChannelValues, ChannelValues]:
        """Mean and std of the network's input, from mean and std of the full image."""
        return self.sees.normalisation(mean, std) if self.sees else (mean, std)


def _network_label(family: str, settings: Family) -> str:
    """The name of the size with these settings; the default label where no size has them."""
    for name, size in type(settings).sizes.items():
        if type(settings).parse(dict(size)) == settings:
            return name
    return default_label(family, settings)
