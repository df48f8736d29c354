"""Plan settings that a joint search chooses: the ratio of spacings, the first stride of the thick axis, augmentation's strength."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from metanas_med.config.show import show
from metanas_med.data.cache import open_cache
from metanas_med.data.plan import Plan, fit_plan, stride_schedule
from metanas_med.data.settings import PlanSettings
from metanas_med.tasks.episode import make_episode
from metanas_med.tasks.organ import task_in

Triple = tuple[float, float, float]


def scan(shape: tuple[int, int, int] = (60, 50, 20)) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (1, X, Y, Z) and a map (X, Y, Z) with two organs; one is a thin sheet."""
    label = np.zeros(shape, dtype=np.uint8)
    label[tuple(slice(n // 3, n // 3 + max(1, n // 3)) for n in shape)] = 1
    label[2:4, 5 : shape[1] - 5, 2 : shape[2] - 2] = 2
    return np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32), label


def plan_of(spacing: Triple, **options: Any) -> Plan:
    image, label = scan()
    chosen = {"view_voxels": 8000, "margin": 1.2, "levels": 4} | options
    return fit_plan([image], [label], [spacing], ["MR"], **chosen)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.sampled_from([0.5, 0.8, 1.0, 2.5, 6.0])] * 3),
    st.sampled_from([1.0, 1.5, 2.0, 4.0]),
    st.integers(200, 60000),
    st.sampled_from([0.0, 2.0]),
)
def test_a_ratio_limits_how_anisotropic_a_grid_is(spacing: Triple, ratio: float, budget: int, thickness: float) -> None:
    given_: dict[str, Any] = {"view_voxels": budget, "thickness": thickness}
    plan, plain = plan_of(spacing, ratio=ratio, **given_), plan_of(spacing, **given_)
    assert plan.axes == plain.axes
    assert max(plan.spacing) / min(plan.spacing) <= ratio * (1 + 1e-9)
    # no axis is finer than the scan, nor finer than without the limit
    native = [spacing[a] for a in plan.axes]
    assert all(s >= max(n, p) - 1e-6 for s, n, p in zip(plan.spacing, native, plain.spacing, strict=True))
    assert np.prod([max(v - 0.5, 1.0) for v in plan.view]) <= budget * 1.001
    if max(plain.spacing) / min(plain.spacing) <= ratio:  # the limit binds nowhere
        assert plan == plain


def test_a_ratio_of_one_is_isotropic_and_its_view_grows_to_the_budget() -> None:
    plain, two, one = (plan_of((0.8, 0.8, 4.0), ratio=ratio) for ratio in (0, 2, 1))
    assert one.spacing == (4.0, 4.0, 4.0) and two.spacing == (2.0, 2.0, 4.0) and plain.spacing[0] < 2.0
    # in millimetres, a view of coarser voxels shows more of the scan
    assert [round(v * s) for v, s in zip(two.view, two.spacing, strict=True)] >= [
        round(v * s) for v, s in zip(plain.view, plain.spacing, strict=True)
    ]
    assert one.view == one.shape((60, 50, 20), (0.8, 0.8, 4.0))  # the whole scan fits
    assert plan_of((1.0, 1.0, 1.0), ratio=1) == plan_of((1.0, 1.0, 1.0))


def test_a_ratio_precedes_the_least_thickness() -> None:
    spacing = (1.0, 1.0, 4.0)
    finer, plain = (plan_of(spacing, view_voxels=2000, margin=2.0, thickness=t) for t in (2.0, 0.0))
    assert finer.spacing[0] < plain.spacing[0]
    assert plan_of(spacing, view_voxels=2000, margin=2.0, thickness=2.0, ratio=1).spacing == (4.0, 4.0, 4.0)


@pytest.mark.parametrize("ratio", [1, 2])
def test_the_inverse_of_a_coarser_grid_has_the_scans_own_shape(ratio: float) -> None:
    image, label = scan()
    spacing = (1.0, 1.0, 2.0)
    plan = plan_of(spacing, ratio=ratio, view_voxels=60000)
    planned = plan.apply_label(label, spacing, 2)
    assert plan.apply_image(image, spacing).shape[1:] == planned.shape == plan.shape(label.shape, spacing)
    scores = torch.nn.functional.one_hot(planned.long(), 3).permute(3, 0, 1, 2).float()
    back = plan.invert_labels(scores, label.shape).numpy()
    assert back.shape == label.shape
    if plan.spacing == spacing:  # native: exact
        np.testing.assert_array_equal(back, label)
    thick = (back == 1) & (label == 1)
    assert 2 * thick.sum() / ((back == 1).sum() + (label == 1).sum()) > 0.9


@pytest.mark.parametrize(
    ("view", "spacing", "levels", "first", "expected"),
    [
        # by spacing, the thick axis waits until the others are as coarse
        ((32, 32, 16), (1, 1, 4), 4, 0, ((2, 2, 1), (2, 2, 1), (2, 2, 2))),
        ((32, 32, 16), (1, 1, 4), 4, 1, ((2, 2, 2), (2, 2, 2), (2, 2, 1))),
        ((32, 32, 16), (1, 1, 4), 4, 2, ((2, 2, 1), (2, 2, 2), (2, 2, 2))),
        ((32, 32, 16), (1, 1, 4), 4, 3, ((2, 2, 1), (2, 2, 1), (2, 2, 2))),
        ((32, 32, 16), (1, 1, 4), 4, 9, ((2, 2, 1), (2, 2, 1), (2, 2, 1))),
        # an isotropic view: the other axes do not wait for a thick axis that is not strided
        ((32, 32, 32), (1, 1, 1), 4, 0, ((2, 2, 2), (2, 2, 2), (2, 2, 2))),
        ((32, 32, 32), (1, 1, 1), 4, 3, ((2, 2, 1), (2, 2, 1), (2, 2, 2))),
        # too few slices
        ((32, 32, 5), (1, 1, 4), 3, 1, ((2, 2, 1), (2, 2, 1))),
        # the other axes are compared with each other; where none of them is left, the thick axis still has its turn
        ((32, 16, 8), (1, 2, 4), 3, 2, ((2, 1, 1), (2, 2, 2))),
        ((4, 4, 24), (1, 1, 4), 4, 2, ((1, 1, 1), (1, 1, 2), (1, 1, 2))),
        ((1, 1, 1), (1, 1, 1), 3, 1, ((1, 1, 1), (1, 1, 1))),
        ((16, 16, 16), (1, 1, 1), 1, 2, ()),
    ],
)
def test_the_thick_axis_is_strided_from_a_transition_on(view: Any, spacing: Any, levels: int, first: int, expected: Any) -> None:
    assert stride_schedule(view, spacing, levels, first) == expected
    if not first:
        assert stride_schedule(view, spacing, levels) == expected


def test_an_episode_follows_the_settings(phantom_cache: Path) -> None:
    data = open_cache(phantom_cache / "Phantom06_Pair.h5")
    names, task = [c.name for c in data.cases][:2], task_in(data)
    plain = PlanSettings(view_voxels=4096)

    def episode(**changes: Any) -> Any:
        return make_episode(data, task, names, [], plain.model_copy(update=changes), 3)

    given_ = episode()
    assert episode(ratio=0.0, thick_stride=0).plan == given_.plan
    isotropic = episode(ratio=1.0)
    assert max(isotropic.plan.spacing) == pytest.approx(min(isotropic.plan.spacing))
    assert isotropic.support[0].image.shape[1:] == isotropic.support[0].label.shape
    assert [s[2] for s in episode(thick_stride=3).plan.strides] == [1, 1]


def test_older_settings_switch_augmentation_on_or_off() -> None:
    for value, strength in ((True, 1.0), (False, 0.0), (2, 2.0), (0.5, 0.5), (0, 0.0)):
        read = PlanSettings.model_validate({"augment": value})
        assert read.augment == strength and isinstance(read.augment, float)
        assert PlanSettings.model_validate(read.model_dump(mode="json")) == read
        assert f"augment: {strength}" in show(read)
    assert PlanSettings().augment == 1.0


@pytest.mark.parametrize("bad", [{"augment": -0.1}, {"augment": 4.1}, {"augment": "much"}, {"ratio": 0.5}, {"ratio": -1},
                                 {"ratio": True}, {"thick_stride": -1}, {"thick_stride": 1.5}])  # fmt: skip
def test_values_that_mean_nothing_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PlanSettings.model_validate(bad)
