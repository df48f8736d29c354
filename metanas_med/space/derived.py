"""The discrete network of a genotype: it runs only what was chosen, and its parameters bear the supernet's names and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .genotype import plan_of, settings_of, validate_genotype
from .plan import UNetSupernetSettings
from .supernet import Supernet, UNetBody


class DerivedNet(UNetBody):
    """A network with one candidate an edge, run factored, and no alphas; it returns the features of the levels it has."""

    def __init__(self, genotype: Mapping[str, Any], generator: torch.Generator | None = None) -> None:
        super().__init__(plan_of(genotype), generator)
        self.settings: UNetSupernetSettings = settings_of(genotype)
        self._genotype = dict(genotype)

    def genotype(self) -> dict[str, Any]:
        """Return the genotype that this network was built from."""
        return self._genotype

    def load_from(self, state: Mapping[str, Tensor]) -> None:
        """Take weights and gains by name from a supernet's state."""
        self.load_state_dict({name: state[name] for name in self.state_dict()})


def build_derived(genotype: Mapping[str, Any], generator: torch.Generator | None = None) -> DerivedNet:
    """Return the network of a genotype (from its JSON alone) with fresh weights. Raises CheckpointError where it is damaged."""
    return DerivedNet(genotype, generator)


def derive(body: Supernet, genotype: Mapping[str, Any]) -> DerivedNet:
    """Return the network of a genotype with copies of the supernet's weights and gains: equal to it at one-hot alphas."""
    validate_genotype(genotype, body.settings)
    example = next(body.parameters())
    with torch.random.fork_rng(devices=[]):  # weights are drawn and then overwritten: nobody's random numbers should move
        derived = DerivedNet(genotype).to(device=example.device, dtype=example.dtype)
    derived.load_from(body.state_dict())
    return derived.train(body.training)
