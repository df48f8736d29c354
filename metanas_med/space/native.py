"""The native form of a paper's space: a whole network with a stem, a tail and a last layer of its own."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from .base import Body
from .settings import SpaceSettings


class FormSettings(SpaceSettings):
    """Settings of a paper's space, which has two forms."""

    #: house: our stem, head, norm and the plan's strides; native: those of the paper
    form: Literal["house", "native"] = "house"
    num_channels: int = Field(
        default=1, ge=1, le=64
    )  #: image channels of a native network; scans with others are mixed into them


class NativeNetwork(nn.Module):
    """A native body and its classifier: images (B, num_channels, X, Y, Z) to logits (B, num_classes, X, Y, Z).

    This is the network of the paper, without our head: for counts, comparisons and other training code.
    """

    def __init__(self, body: Body, num_classes: int) -> None:
        super().__init__()
        if not body.takes_images:
            raise ValueError(f"{body.settings.name}: this body needs our stem and head; build it with form: native")
        self.body = body
        self.classifier = body.classifier(num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of ``images``."""
        return self.classifier(self.body(images, ()))  # type: ignore[no-any-return]
