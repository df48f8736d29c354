"""Expected multiply-adds of BiX-NAS in closed form: what a draw from the alphas costs on average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..base import Triple
from ..counting import candidate_multiply_adds

if TYPE_CHECKING:
    from .body import BixBody


def expected_multiply_adds(
    body: BixBody, weights: Mapping[str, Tensor], volumes: Sequence[Triple], shape: Sequence[int]
) -> Tensor:
    """Return the mean multiply-adds of one sample of ``shape`` (X, Y, Z): a scalar with gradients.

    ``weights``: of the options of every row; ``volumes``: the size of each level. A block runs unless none of its readers both runs and
    reads it; readers are taken as independent.
    """
    first = next(body.parameters())
    one = torch.ones((), device=first.device, dtype=torch.promote_types(first.dtype, torch.float32))
    unread = dict.fromkeys(body.parts, one) | dict.fromkeys(body.outputs, one * 0)  # probability that nobody reads it
    width, name = body.settings.width, "conv331" if body.dims == 2 else "conv333"
    total = one * 0
    for part in reversed(body.parts.values()):
        runs = 1 - unread[part.name]
        total = total + runs * (2.0 * candidate_multiply_adds(name, width, width, body.dims, volumes[part.level], (1, 1, 1)))
        rows = dict(zip(part.sources, part.rows(), strict=False))
        for source in body.reads[part.name]:
            if source in unread:
                row = weights.get(rows.get(source, ""))
                p = 1 if row is None else row[1 if source != part.sources[0] else 0]
                unread[source] = unread[source] * (1 - runs * p)
    return total * (int(shape[2]) if body.dims == 2 else 1) + body.fixed_multiply_adds(shape)
