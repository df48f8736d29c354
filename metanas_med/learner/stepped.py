"""Which parts of a network a run steps: all of it, its decoder and head, or its head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..space.network import SegmentationNet

Stepped = Literal["all", "decoder", "head"]

#: the vectors of the stem's channels are task parameters, but their gradient passes through the whole network
_CHANNELS = "task.channels"


def trained(net: SegmentationNet) -> dict[str, nn.Parameter]:
    """Return weights and task parameters by name."""
    return {**net.weights(), **net.task_parameters()}


def is_of_head(name: str) -> bool:
    """Return whether a parameter of that name is a head row or a task parameter."""
    return name.startswith(("head.", "task."))


def stepped(net: SegmentationNet, which: Stepped) -> dict[str, nn.Parameter]:
    """Return the weights and task parameters that steps on ``which`` parts move, by name.

    ``all``: all of them. ``head``: the head's rows. ``decoder``: these and what the body calls its decoder. Without ``all``, the
    vectors of the stem's channels stay at their start: no gradient then passes through the parts that stay. Raises ConfigError
    for ``decoder`` if the body has none.
    """
    found = trained(net)
    if which == "all":
        return found
    names: set[str] = set()
    if which == "decoder":
        decoder = net.body.decoder()
        if decoder is None:
            raise ConfigError(
                f"stepped decoder: the search space {net.body.settings.name!r} does not say which weights are its decoder. "
                "Use stepped all or head."
            )
        names = {f"body.{name}" for name in decoder}
    return {name: p for name, p in found.items() if name in names or (is_of_head(name) and name != _CHANNELS)}


@contextmanager
def only_stepped(nets: Sequence[SegmentationNet], which: Stepped, alphas: bool) -> Iterator[None]:
    """Let no other parameter of ``nets`` require a gradient within the block, but for alphas where ``alphas`` is true.

    Forward passes then save nothing for parts that stay. With ``all`` nothing changes.
    """
    frozen: list[nn.Parameter] = []
    if which != "all":
        for net in nets:
            kept = {id(p) for p in [*stepped(net, which).values(), *(net.alphas().values() if alphas else ())]}
            frozen += [p for p in net.parameters() if id(p) not in kept]
    with without_gradient(frozen):
        yield


@contextmanager
def without_gradient(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let ``parameters`` require no gradient within the block: forward passes then save nothing for theirs."""
    frozen = [p for p in parameters if p.requires_grad]
    for p in frozen:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad_(True)


def at_values(net: nn.Module, names: Iterable[str], values: Sequence[Tensor] | None) -> Callable[..., Tensor]:
    """Return ``net`` as a function of its inputs, with ``values`` in place of the parameters ``names``; None: ``net`` itself."""
    if values is None:
        return net
    named = dict(zip(names, values, strict=True))
    return lambda *inputs: torch.func.functional_call(net, named, inputs)
