"""The memory of a training step, predicted before the first one without computing or storing anything.

A step holds parameters, gradients, the optimizer's moments, and the activations that the forward pass saves for the backward
pass. The last are found exactly: the network runs on torch's ``meta`` device, where tensors have shapes and no values, and hooks
add up what autograd saves, each storage once. What comes on top was measured on whole adaptations: temporary maps of the backward
pass, batches that are made ahead, and blocks that the allocator keeps. glibc keeps freed blocks under 32 MiB, so the last part
grows over the first hundred steps, and it is bounded.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..data.plan import stride_schedule
from ..errors import ConfigError
from ..learner import LearnerSettings, Runtime
from ..learner.alpha_gradients import ALPHA_GRADIENTS
from ..learner.contrastive import similarity_bytes
from ..learner.relaxations import start_relaxed
from ..learner.stepped import only_stepped
from ..machine import free_memory_bytes
from ..space import build_derived, genotype, get_space
from ..space.blocks.operations import is_thinner
from ..space.network import SegmentationNet
from ..tasks.distribution import TaskDistribution
from ..tasks.episode import Episode
from .meta_run import MetaRun
from .phases import kinds_of
from .settings import Settings
from .state import build_network, load_meta_state

log = logging.getLogger(__name__)
GIB = 2.0**30

#: measured on whole adaptations on CPUs: per byte of activations, the backward pass and the blocks that the allocator keeps, of
#: which there are at most ``_KEPT_MOST`` bytes; libraries and batches
_BACKWARD, _KEPT, _KEPT_MOST, _CONSTANT = 2.0, 4.5, 1.25 * 2**30, 64 * 2**20
#: the share of the voxels that fit which is suggested
_ROUNDED = 0.8


@dataclass(frozen=True)
class Step:
    """What a training step works on: the view's shape in voxels, patches, channels and organs."""

    view: tuple[int, int, int]
    strides: Sequence[Sequence[int]]
    batch: int
    num_channels: int = 1
    num_organs: int = 1


@dataclass(frozen=True)
class Need:
    """Bytes of a training step. ``fixed`` does not depend on the view; ``activations`` grow with its voxels."""

    parameters: int
    gradients: int
    moments: int
    activations: int

    @property
    def fixed(self) -> int:
        return self.parameters + self.gradients + self.moments + _CONSTANT

    kept: bool = True  #: by the allocator of a CPU; CUDA's reuses its blocks

    @property
    def total(self) -> int:
        kept = min(_KEPT * self.activations, _KEPT_MOST) if self.kept else 0.0
        return self.fixed + round(_BACKWARD * self.activations + kept)

    def largest_share(self, free: int) -> float:
        """Return how many times the view's voxels fit into ``free`` bytes, at most; 0 or less: none."""
        left = free - self.fixed
        some = left / (_BACKWARD + (_KEPT if self.kept else 0.0))
        if self.kept and _KEPT * some > _KEPT_MOST:
            some = (left - _KEPT_MOST) / _BACKWARD
        return some / max(self.activations, 1)


class _Autocast(TorchFunctionMode):
    """Casts the inputs of convolutions and products to bfloat16, as autocast does; it does not act on ``meta`` tensors.

    On a CPU maps that are thinner than the kernel are convolved in float32, as in ``space.blocks.operations.conv3d``.
    """

    _CONVOLUTIONS = frozenset({torch.conv3d, nn.functional.conv3d, torch.conv_transpose3d})

    _CAST = frozenset(
        {
            torch.conv1d, torch.conv2d, torch.conv3d, nn.functional.conv3d, nn.functional.conv2d, torch.conv_transpose3d,
            nn.functional.linear, torch.mm, torch.bmm, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.addmm, torch.baddbmm,
        }
    )  # fmt: skip

    def __init__(self, channels_last: bool = False, cpu: bool = True) -> None:
        """``channels_last``: maps keep this format, as on a CPU; convolutions of ``meta`` tensors lose it."""
        super().__init__()
        self._cpu = cpu
        self._channels_last = channels_last
        self._cast_once: dict[int, tuple[Tensor, Tensor]] = {}  #: a parameter's cast is kept for the whole forward pass

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        thin = self._cpu and func in self._CONVOLUTIONS and is_thinner(args[0], args[1])
        if thin:
            args = tuple(arg.float() if isinstance(arg, Tensor) else arg for arg in args)
        elif func in self._CAST:
            args = tuple(self._cast(arg) for arg in args)
        found = func(*args, **(kwargs or {}))
        found = found.bfloat16() if thin else found
        if self._channels_last and func in self._CAST and isinstance(found, Tensor) and found.ndim == 5:
            return found.contiguous(memory_format=torch.channels_last_3d)
        return found

    def _cast(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not isinstance(value, nn.Parameter):
            return value.bfloat16()
        return self._cast_once.setdefault(id(value), (value, value.bfloat16()))[1]


def saved_bytes(run: Callable[[], Tensor], ignore: Sequence[Tensor] = ()) -> int:
    """Return the bytes that ``run`` saves for its backward pass: each storage once, without those of ``ignore``."""
    known = {tensor.untyped_storage()._cdata for tensor in ignore}
    kept: list[Any] = []  # storages that are held cannot be freed, so no other one gets their address
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            known.add(storage._cdata)
            kept.append(storage)
            total += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    return total


def sketch_of(net: SegmentationNet) -> SegmentationNet:
    """Return a copy of ``net`` on the ``meta`` device; no value is copied."""
    memo: dict[int, Any] = {}
    for p in net.parameters():
        memo[id(p)] = nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
    for b in net.buffers():
        memo[id(b)] = torch.empty_like(b, device="meta")
    return copy.deepcopy(net, memo)


def step_need(
    net: SegmentationNet,
    step: Step,
    runtime: Runtime,
    moments: int = 2,
    copies: int = 1,
    graphs: int = 1,
    learner: LearnerSettings | None = None,
) -> Need:
    """Return the memory of one training step of ``net``, a sketch, with alphas and weights learned.

    ``moments``: moments and means per parameter; ``copies`` of the network in turns; ``graphs`` kept at once, each a forward pass.
    A ``learner`` that does not step all parts needs less.
    """
    net.start_task(step.num_channels, step.num_organs)
    net.to("meta")
    images = torch.empty(step.batch, step.num_channels, *step.view, device="meta")
    if runtime.channels_last:
        images = images.contiguous(memory_format=torch.channels_last_3d)
    coords = torch.empty(step.batch, 3, *step.view, device="meta")
    own = [*net.parameters(), *net.buffers()]
    cast: AbstractContextManager[Any] = (
        _Autocast(runtime.channels_last, runtime.device.type == "cpu") if runtime.bfloat16 else nullcontext()
    )

    def forward() -> Tensor:
        with cast:
            logits = net(images, coords, step.strides)
        # Dice and cross-entropy keep the probabilities, their logarithms and the one-hot labels of each class
        return logits.softmax(1) * logits.log_softmax(1) * torch.empty_like(logits)

    parts: Any = getattr(learner, "stepped", "all")
    with only_stepped([net], parts, alphas=learner is None or not learner.keeps_alphas):
        activations = graphs * saved_bytes(forward, [*own, images, coords]) + 3 * _bytes([images, coords])
        moved = _bytes(p for p in net.parameters() if p.requires_grad)
    size = _bytes(net.parameters())
    kept = runtime.device.type == "cpu"
    return Need(copies * size + _bytes(net.buffers()), moved, copies * moments * moved, activations, kept)


def check_adaptation(run: MetaRun, episode: Episode, learner: LearnerSettings, runtime: Runtime) -> None:
    """Raise ConfigError if the steps of an adaptation do not fit into free memory; call it before the first step."""
    plan = episode.plan
    step = Step(plan.view, plan.strides, learner.batch, episode.num_channels, episode.task.num_organs)
    need = _guarded(lambda: learner_need(_sketch(run, learner), step, learner, runtime))
    _refuse_if_short(need, step, runtime, "--plan.view_voxels", "--adapt.batch", "a run with a smaller space.base_width")


def check_meta_training(net: SegmentationNet, settings: Settings, tasks: TaskDistribution, runtime: Runtime) -> None:
    """Raise ConfigError if the steps of a meta-training do not fit into free memory; call it before the first iteration.

    Views differ between episodes; their number of voxels is bounded by the settings. Steps are compared at the most channels and
    organs of the data sets.
    """
    views, adapt = settings.plan.view_voxels, settings.plan.of_adapt().view_voxels
    steps = [(settings.learner.batch * views, "--plan.view_voxels", "--learner.batch", settings.learner.batch, views)]
    if kinds_of(settings.phases) != {"tasks"}:
        steps.append((settings.features.views * views, "--plan.view_voxels", "--features.views", settings.features.views, views))
    if settings.meta.num_validation and tasks.train:
        steps.append((settings.adapt.batch * adapt, "--plan.adapt_voxels", "--adapt.batch", settings.adapt.batch, adapt))
    _, voxels_flag, batch_flag, batch, voxels = max(steps)
    learner = settings.adapt if batch_flag == "--adapt.batch" else settings.learner
    channels = max((c.num_channels for d in tasks.datasets.values() for c in d.cases), default=1)
    organs = max((task.num_organs for task in (*tasks.train, *tasks.validation)), default=1)
    # anisotropic views are halved along fewer axes, so their deeper levels have more voxels
    edge = max(1, round((4 * voxels) ** (1 / 3)))
    view = (edge, edge, max(1, round(voxels / edge**2)))
    strides = stride_schedule(view, (1.0, 1.0, 4.0), settings.space.levels, settings.plan.thick_stride)
    step = Step(view, strides, batch, channels, organs)
    need = _guarded(lambda: learner_need(_relaxed(sketch_of(net), learner), step, learner, runtime))
    _refuse_if_short(need, step, runtime, voxels_flag, batch_flag, "--space.base_width")
    if "synthesis" in kinds_of(settings.phases):
        _check_contrast(settings, free_bytes(runtime))


def _check_contrast(settings: Settings, free: int | None) -> None:
    """Raise ConfigError if the similarities of a contrastive step do not fit into ``free`` bytes."""
    voxels, levels = settings.features.contrast.voxels, settings.space.levels
    need = similarity_bytes(settings.features.views * voxels, levels)
    if free is not None and need > free:
        fits = int(voxels * (_ROUNDED * free / need) ** 0.5)
        raise ConfigError(
            f"a step on made-up volumes needs about {need / 2**30:.1f} GiB for the similarities of its voxels, "
            f"{free / 2**30:.1f} GiB are free. Lower --features.contrast.voxels to at most {fits} (now {voxels})."
        )


def learner_need(net: SegmentationNet, step: Step, learner: LearnerSettings, runtime: Runtime) -> Need:
    """Return the memory of the steps of a task learner on ``net``, a sketch: of the supernet while alphas are learned."""
    part = None if learner.keeps_alphas else getattr(learner, "alpha_gradient", None)
    exact = part is not None and bool(getattr(ALPHA_GRADIENTS.entry(part.name).factory, "exact", False))
    cross = bool(getattr(part, "cross_fit", False))
    graphs = learner.steps + 1 if learner.name == "maml" else 3 if exact else 1
    # two moments (Adam), or one (Muon, SGD), and the mean weights of the last steps
    moments = (2 if getattr(learner, "optimizer", "adam") == "adam" else 1) + bool(getattr(learner, "average", 0))
    runtime = replace(runtime, bfloat16=runtime.bfloat16 and not exact)
    return step_need(net, step, runtime, moments, 1 + cross, graphs, learner)


def free_bytes(runtime: Runtime) -> int | None:
    """Return the free memory of the device in bytes, None if it is unknown."""
    if runtime.device.type == "cuda":
        return int(torch.cuda.mem_get_info(runtime.device)[0])
    return free_memory_bytes()


def _sketch(run: MetaRun, learner: LearnerSettings) -> SegmentationNet:
    """Return the sketch of the largest network that ``learner`` trains: the supernet, or a discrete one if alphas stay."""
    space = run.settings.space
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        if learner.keeps_alphas and not getattr(learner, "soft", True) and run.state.alphas:
            net = build_real(run)
            return SegmentationNet(build_derived(genotype(net.body)), widths=space.widths)
        return _relaxed(SegmentationNet(get_space(space).build(None)), learner)


def build_real(run: MetaRun) -> SegmentationNet:
    """Return the network of a run with its alphas, whose values give the genotype."""
    with torch.device("cpu"):
        net = build_network(run.settings.space, run.settings.seed)
        load_meta_state(net, run.state)
    return net


def _relaxed(net: SegmentationNet, learner: LearnerSettings) -> SegmentationNet:
    """Return ``net`` with the relaxation of ``learner``, without noise or pruning."""
    net.body.relax(start_relaxed(learner))
    return net


def _guarded(predict: Callable[[], Need]) -> Need | None:
    """Return the prediction, or None if a part of the network cannot run without values (a registered one may need them)."""
    try:
        return predict()
    except Exception:
        log.debug("the memory of a step cannot be predicted", exc_info=True)
        return None


def _refuse_if_short(need: Need | None, step: Step, runtime: Runtime, voxels: str, batch: str, width: str) -> None:
    free = free_bytes(runtime)
    if need is None or free is None or need.total <= free:
        return
    size = math.prod(step.view)
    # each axis of a view is rounded, so it may have more voxels than the setting
    fits = _ROUNDED * need.largest_share(free) * size
    if fits >= 64:
        first = f"Lower {voxels} to at most {_two_digits(fits)}, or {batch} (now {step.batch}), or use {width}"
    else:
        first = f"No view fits. Lower {batch} (now {step.batch}) and {voxels}, or use {width}"
    raise ConfigError(
        f"a training step needs about {need.total / GIB:.2g} GiB of memory ({step.batch} views of {size} voxels, "
        f"{need.parameters / 4e6:.1f} million parameters); {free / GIB:.2g} GiB are free on {runtime.device}. {first}."
    )


def _two_digits(number: float) -> int:
    """Return ``number`` rounded down to two digits."""
    unit = 10 ** max(0, len(str(int(number))) - 2)
    return int(number) // unit * unit


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
