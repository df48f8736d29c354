"""Organ tasks, the split by patient, the task distribution, and episodes of phantoms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metanas_med.data.cache import open_caches, prepare
from metanas_med.data.nifti import read_image
from metanas_med.data.patches import PatchSampler
from metanas_med.data.settings import PlanSettings
from metanas_med.errors import DataError
from metanas_med.tasks.distribution import TaskDistribution, build_distribution
from metanas_med.tasks.episode import draw_split, make_episode
from metanas_med.tasks.organ import OrganTask, task_in, task_of, tasks_of
from metanas_med.tasks.settings import TaskSettings

LABELS = {1: "Left Lung", 2: "right lung", 5: "heart+aorta"}
PLAN = PlanSettings(view_voxels=600)


def fake(name: str = "D", patients: tuple[str, ...] = ("p", "q", "r"), holds: Any = None, **extra: Any) -> Any:
    """Return a data set without voxels: one case per entry of ``patients``; ``holds[i]`` are the labels that case i shows."""
    cases = [
        SimpleNamespace(
            name=f"c{i}",
            patient=p,
            label_voxels=dict.fromkeys(holds[i] if holds else (1, 2), 9),
            annotated=None,
            content_hash=f"{name} {i}",
        )
        for i, p in enumerate(patients)
    ]
    return SimpleNamespace(**({"name": name, "group": name, "related": (), "labels": {1: "a", 2: "b"}, "cases": cases} | extra))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_organs_by_name_number_list_union() -> None:
    def organs(text: str) -> tuple[tuple[int, ...], ...]:
        return task_of("D", LABELS, text).organs

    assert organs("left lung") == organs(" LEFT LUNG ") == organs("1") == ((1,),)
    assert organs("Left Lung, 2") == ((1,), (2,)) and organs("left lung+right lung") == ((1, 2),)
    assert organs("heart+aorta") == ((5,),) and organs("heart+aorta,1") == ((5,), (1,))  # a name may contain a plus
    assert organs("1+2,5") == ((1, 2), (5,))
    assert organs("all") == ((1,), (2,), (5,)) and organs("union") == ((1, 2, 5),)
    task = task_of("D", LABELS, "1+2,5")
    assert task.names == ("Left Lung+right lung", "heart+aorta") and task.num_organs == 2
    assert task.key == "D/Left Lung+right lung+heart+aorta"
    for twice in ("1,1+2", "left lung,1", "heart+aorta,5"):
        with pytest.raises(DataError, match="appears twice"):
            task_of("D", LABELS, twice)
    with pytest.raises(DataError, match="no organ 'hart'.*known: Left Lung, heart.aorta, right lung"):
        task_of("D", LABELS, "hart")
    with pytest.raises(DataError, match="did you mean 'right lung'"):
        task_of("D", LABELS, "left lung, rigt lung")
    with pytest.raises(DataError, match="declares no organ"):
        task_of("D", {}, "all")


def test_remap() -> None:
    label = np.array([[[0, 1, 2], [5, 7, 255]]], dtype=np.uint8)
    found = task_of("D", LABELS, "5,1+2").remap(label)
    assert found.dtype == np.uint8 and found.tolist() == [[[0, 2, 2], [1, 0, 0]]]


def test_tasks_of_a_data_set() -> None:
    assert [t.organs for t in tasks_of("D", {3: "x"})] == [((3,),)]
    assert len(tasks_of("D", LABELS)) == 5 and len(tasks_of("D", LABELS, unions=False)) == 3
    assert len({t.key for t in tasks_of("D", LABELS)}) == 5


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("pqrstuv"), st.sets(st.sampled_from([1, 2, 3]))), min_size=1, max_size=12),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(0, 99),
)
def test_no_patient_is_on_both_sides(cases: list[tuple[str, set[int]]], shots: int, num_query: int, seed: int) -> None:
    data = fake(patients=tuple(p for p, _ in cases), holds=[h for _, h in cases])
    task = OrganTask("D", ("a", "b"), ((1,), (2, 3)))
    patient = {c.name: c.patient for c in data.cases}
    usable = {p for p, h in cases if h}
    if not usable:
        with pytest.raises(DataError, match="no scan holds the organ"):
            draw_split(data, task, shots, num_query, rng(seed))
        return
    support, query = draw_split(data, task, shots, num_query, rng(seed))
    assert 1 <= len(support) <= shots and len(query) <= num_query
    sides = [patient[n] for n in (*support, *query)]
    assert len(set(sides)) == len(sides) and set(sides) <= usable  # one scan per patient
    assert all(next(c for c in data.cases if c.name == n).label_voxels for n in (*support, *query))
    assert bool(query) == (len(usable) >= 3)
    # a patient with all organs always has priority over one without
    whole = {p for p, h in cases if 1 in h and h & {2, 3}}
    if len(whole) >= shots and len(support) == shots:
        assert {patient[n] for n in support} <= whole
    assert (support, query) == draw_split(data, task, shots, num_query, rng(seed))


def test_fewer_than_three_patients_give_no_query() -> None:
    task = OrganTask("D", ("a",), ((1,),))
    for patients, expected in (("p", 0), ("pp", 0), ("pq", 0), ("pqr", 2), ("pqrs", 2)):
        support, query = draw_split(fake(patients=tuple(patients)), task, 2, 2, rng())
        assert len(query) == expected and support


@pytest.mark.parametrize("seed", range(5))
def test_the_support_does_not_depend_on_labels_of_later_patients(seed: int) -> None:
    """If only patients with the organ were shuffled, a query label without it would change the support."""
    task, everybody = OrganTask("D", ("a",), ((1,),)), tuple("pqrstuvw")
    order = draw_split(fake(patients=everybody), task, 8, 0, rng(seed))[0]
    support = draw_split(fake(patients=everybody), task, 2, 0, rng(seed))[0]
    assert support == order[:2]
    for changed in order[2:]:
        holds = [() if f"c{i}" == changed else (1, 2) for i in range(8)]
        assert draw_split(fake(patients=everybody, holds=holds), task, 2, 0, rng(seed))[0] == support
    # a patient without the organ is skipped, and the order of the others does not change
    holds = [() if f"c{i}" == order[0] else (1, 2) for i in range(8)]
    assert draw_split(fake(patients=everybody, holds=holds), task, 2, 0, rng(seed))[0] == order[1:3]


def distribution(datasets: list[Any], **tasks: Any) -> TaskDistribution:
    plain = {"synthetic": 0.0, "recast": 0.0}
    return build_distribution({d.name: d for d in datasets}, TaskSettings(**{**plain, **tasks}), PLAN, 3)


def test_related_data_sets_are_held_out_too() -> None:
    sets = [fake("Heart"), fake("Cardiac", related=("Heart",)), fake("Other", group="g"), fake("Same", group="g"), fake("Liver")]
    assert distribution(sets).held_out == ()
    held = distribution(sets, hold_out=("Heart",))
    assert held.held_out == ("Cardiac", "Heart") and {t.dataset for t in held.train} == {"Other", "Same", "Liver"}
    assert distribution(sets, hold_out=("g",)).held_out == ("Other", "Same")
    with pytest.raises(DataError, match="hold_out names 'Hart'.*did you mean 'Heart'"):
        distribution(sets, hold_out=("Hart",))
    with pytest.raises(DataError, match="no task is left"):
        distribution(sets[:1], hold_out=("Heart",))


def test_validation_data_sets_do_not_train() -> None:
    sets = [fake("A"), fake("B")]
    found = distribution(sets, validation=("B",))
    assert {t.dataset for t in found.train} == {"A"} and {t.dataset for t in found.validation} == {"B"}
    with pytest.raises(DataError, match="validation names 'BB'"):
        distribution(sets, validation=("BB",))


def test_labels_that_no_scan_shows_give_no_task() -> None:
    found = distribution([fake("A", holds=[(1,)] * 3)])
    assert [t.organs for t in found.train] == [((1,),)]


def test_a_distribution_file_selects_data_sets(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ndatasets: [A, B, NotHere]\nhold_out: [C]\nvalidation: [B]\n")
    found = distribution([fake(n) for n in "ABCD"], distribution=str(path))
    assert {t.dataset for t in found.train} == {"A"} and {t.dataset for t in found.validation} == {"B"}
    assert found.held_out == ("C",)


def test_draws_are_reproducible_and_weighted_by_patients() -> None:
    many = fake("Many", patients=tuple("abcdefgh"))
    # three scans each: one patient in "One", three patients in both data sets of a group
    one = fake("One", labels={1: "a"}, patients=("p", "p", "p"), holds=[(1,)] * 3)
    tasks = distribution([many, one, fake("Two", group="g"), fake("Three", group="g")])
    drawn = [tasks.choose(rng(s))[0].dataset for s in range(800)]
    share = {n: drawn.count(n) / 800 for n in ("Many", "One", "Two", "Three")}
    for name, expected in (("Many", 4 / 8), ("One", 1 / 8), ("Two", 3 / 16), ("Three", 3 / 16)):
        assert abs(share[name] - expected) < 0.05, share
    assert tasks.choose(rng(3)) == tasks.choose(rng(3))
    shots = {len(tasks.choose(rng(s))[1]) for s in range(50)}
    assert shots == {1, 2, 5}


def test_episodes_on_phantoms(phantom_cache: Path) -> None:
    sets = open_caches(phantom_cache)
    tasks = build_distribution(sets, TaskSettings(shots=(2,), num_query=2, synthetic=0.0, recast=0.0), PLAN, 3)
    seen = set()
    for seed in range(12):
        episode = tasks.draw(rng(seed))
        seen.add(episode.task.dataset)
        assert len(episode.support) == 2 and not episode.query
        episode = tasks.draw(rng(seed), tasks.train)
        assert len(episode.support) == 2 and len(episode.query) == 2
        for volume in episode.support:
            assert volume.image.shape[0] == episode.num_channels and volume.image.shape[1:] == volume.label.shape
            assert volume.label.dtype == torch.uint8 and int(volume.label.max()) <= episode.task.num_organs
            assert volume.label.any()
        for scan in episode.query:
            case = next(c for c in sets[episode.task.dataset].cases if c.name == scan.name)
            assert scan.truth.shape == case.shape and scan.spacing == case.spacing and scan.truth.any()
    assert seen == set(sets)


def test_an_episode_refuses_a_patient_on_both_sides(phantom_cache: Path) -> None:
    data = open_caches(phantom_cache)["Phantom01_Bean"]
    names = [c.name for c in data.cases]
    with pytest.raises(DataError, match="are in both support and query"):
        make_episode(data, task_of(data.name, data.labels), names[:2], names[1:3], PLAN, 3)


def test_a_scan_that_does_not_fit_in_memory_is_refused(make_msd, save_nifti, tmp_path: Path) -> None:
    """With two scans ``prepare`` cannot know which header has other units; then a small file could fill the memory."""
    root = make_msd("Two", num_cases=2, labels=("left",))
    for kind in ("imagesTr", "labelsTr"):
        path = root / kind / "case_1.nii.gz"
        save_nifti(path, read_image(path)[0][0].astype(np.int16), np.diag([1e5, 1e5, 1e5, 1.0]))
    prepare([root], tmp_path / "cache")
    data = open_caches(tmp_path / "cache")["Two"]
    task = task_of("Two", data.labels, "left")
    message = r"Two, case_1: the header claims 1e\+06 x 1.2e\+06 x 8e\+05 mm, .* Fix the spacing in the header"
    with pytest.raises(DataError, match=message):
        make_episode(data, task, ["case_0"], ["case_1"], PlanSettings(), 2)


def test_the_plan_depends_on_the_support_alone(phantom_cache: Path) -> None:
    data = open_caches(phantom_cache)["Phantom06_Pair"]
    names, task = [c.name for c in data.cases], task_of(data.name, data.labels)
    plans = {make_episode(data, task, names[:2], query, PLAN, 3).plan for query in ([], names[2:3], names[3:])}
    assert len(plans) == 1


def test_organs_are_also_found_by_their_names_in_dataset_json() -> None:
    labels, given = {1: "right ventricle", 2: "myocardium"}, {1: "RV", 2: "MYO"}
    assert task_of("d", labels, "rv", given) == task_of("d", labels, "right ventricle")
    assert task_of("d", labels, "RV, myocardium", given) == task_of("d", labels, "all")


def test_names_that_differ_only_in_case_are_distinguished() -> None:
    labels = {1: "GTV", 2: "gtv", 3: "Liver"}
    assert task_of("d", labels, "GTV").organs == ((1,),) and task_of("d", labels, "gtv").organs == ((2,),)
    assert task_of("d", labels, "gtv, liver+GTV").organs == ((2,), (3, 1))
    for text in ("Gtv", "liver,Gtv"):
        with pytest.raises(DataError, match=r"d: 'Gtv' may be 'GTV' \(label 1\) or 'gtv' \(label 2\); write one of these"):
            task_of("d", labels, text)
    both = task_of("d", labels, "all")
    assert both.on("e", {4: "gtv", 5: "GTV", 6: "liver"}).organs == ((5,), (4,), (6,))
    with pytest.raises(DataError, match="e: 'Liver' may be 'LIVER' .* or 'liver'"):
        both.on("e", {4: "gtv", 5: "GTV", 6: "LIVER", 7: "liver"})
    # otherwise its only label of that name would count for the second organ only
    with pytest.raises(DataError, match="e has one label 'Gtv' for 'GTV' and 'gtv'; expected one for each"):
        both.on("e", {1: "Gtv", 2: "liver"})


def test_an_exact_name_in_dataset_json_has_priority_over_a_cards_name_in_another_case() -> None:
    labels, given = {1: "tumour", 2: "gtv", 3: "c", 4: "d"}, {1: "GTV", 2: "gtv", 3: "same", 4: "same"}
    assert task_of("d", labels, "GTV", given).organs == ((1,),)
    assert task_of("d", labels, "Gtv", given).organs == ((2,),)  # if neither is exact, the card's name has priority
    with pytest.raises(DataError, match=r"'same' may be 'c' \(label 3\) or 'd' \(label 4\)"):
        task_of("d", labels, "same", given)


def test_a_name_has_priority_over_a_labels_number() -> None:
    """Dentists name teeth by numbers."""
    teeth = {1: "11", 2: "12", 11: "21", 12: "22"}
    assert task_of("Teeth", teeth, "11").organs == ((1,),) and task_of("Teeth", teeth, "12,22+21").organs == ((2,), (12, 11))
    assert task_of("Teeth", teeth, "1").organs == ((1,),)  # not a name, so a number
    assert task_of("Teeth", {1: "incisor", 11: "canine"}, "11", {1: "11", 11: "21"}).organs == ((1,),)
    single = tasks_of("Teeth", teeth)[:4]
    assert [(t.names, t.organs) for t in single] == [((name,), ((value,),)) for value, name in teeth.items()]


def test_an_organ_that_no_case_shows_is_only_in_tasks_that_name_it(make_msd, edit_json, tmp_path: Path) -> None:
    root = make_msd()
    edit_json(root, labels={"0": "background", "1": "first", "2": "ghost", "3": "second"})
    for number in range(3):
        path = root / "labelsTr" / f"case_{number}.nii.gz"
        scan: Any = nib.load(path)  # type: ignore[attr-defined]
        moved = np.array([0, 1, 3], np.uint8)[np.asarray(scan.dataobj, dtype=np.uint8)]
        nib.save(nib.Nifti1Image(moved, scan.affine), path)  # type: ignore[attr-defined]
    prepare([root], tmp_path / "cache", skip_bad=True)
    datasets = open_caches(tmp_path / "cache")
    data = datasets["Toy"]
    assert task_in(data).names == ("first", "second") and task_in(data, "union").organs == ((1, 3),)
    assert task_in(data, "second, first+ghost").organs == ((3,), (1, 2))
    for organ in ("ghost", "first,ghost"):
        with pytest.raises(DataError, match="Toy/ghost: no scan holds the organ. Expected at least one; check the labels of Toy"):
            task_in(data, organ)
    trained = build_distribution(datasets, TaskSettings(), PLAN, 3).train
    assert [task.organs for task in trained] == [((1,),), ((3,),), ((1,), (3,)), ((1, 3),)]
    data.cases = tuple(replace(case, label_voxels={}) for case in data.cases)
    with pytest.raises(DataError, match="Toy/first: no scan holds the organ"):
        task_in(data)


def test_synthetic_and_recast_episodes_are_for_training_only(phantom_cache: Path) -> None:
    datasets = open_caches(phantom_cache)
    plan = PlanSettings(view_voxels=600)
    synthetic = build_distribution(datasets, TaskSettings(shots=(2,), synthetic=1.0), plan, 3)
    episode = synthetic.draw(np.random.default_rng(0))
    assert episode.task.dataset == "synthetic" and len(episode.support) == 2 and not episode.query
    assert episode.plan.view == tuple(episode.support[0].label.shape) and len(episode.plan.strides) == 2
    assert synthetic.draw(np.random.default_rng(0), synthetic.train).task.dataset != "synthetic"

    recast, plain = (
        build_distribution(datasets, TaskSettings(shots=(2,), synthetic=0.0, recast=share), plan, 3) for share in (1.0, 0.0)
    )
    changed = 0
    for seed in range(6):
        generator = np.random.default_rng(seed)
        episode = recast.draw(generator)
        assert episode.task in recast.train
        same = plain.load(episode.task, [v.name for v in episode.support], [])
        changed += not torch.equal(episode.support[0].image, same.support[0].image)
        assert [int((v.label > 0).sum()) for v in episode.support] == [int((v.label > 0).sum()) for v in same.support]
        sampler = PatchSampler(episode.support, episode.plan.view, generator)
        assert sampler.batch(2).images.shape[2:] == episode.plan.view
    assert changed >= 4


def test_a_typing_error_in_a_distribution_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nhold_out: [Hart]\n")
    with pytest.raises(DataError, match="hold_out of the distribution names 'Hart'.*'Heart'"):
        distribution([fake("Heart"), fake("Liver")], distribution=str(path))
    path.write_text("name: mine\nhold_out: [hippocampus]\nvalidation: [Task09_Spleen]\n")  # a card has them, no cache here
    assert len(distribution([fake("Heart"), fake("Liver")], distribution=str(path)).train) == 8


def test_a_validation_data_set_need_not_be_listed_and_cannot_be_held_out(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ndatasets: [A]\nvalidation: [B]\n")
    found = distribution([fake(n) for n in "ABC"], distribution=str(path))
    assert {t.dataset for t in found.train} == {"A"} and {t.dataset for t in found.validation} == {"B"}
    found = distribution([fake(n) for n in "ABC"], distribution=str(path), validation=("C",))
    assert {t.dataset for t in found.validation} == {"B", "C"}
    with pytest.raises(DataError, match="B is listed both for validation and as held out"):
        distribution([fake("A"), fake("B")], hold_out=("B",), validation=("B",))


def test_copies_of_training_scans_in_a_held_out_data_set_are_reported(
    make_msd: Any, cache_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare([make_msd("A"), make_msd("B"), make_msd("C", seed=1)], cache_dir)  # A and B hold the same scans
    datasets = open_caches(cache_dir)
    build_distribution(datasets, TaskSettings(hold_out=("C",), synthetic=0.0), PLAN, 3)
    assert "same voxels" not in caplog.text
    build_distribution(datasets, TaskSettings(hold_out=("B",), synthetic=0.0), PLAN, 3)
    assert "3 scan(s) of B, which is held out, hold the same voxels as training scans of A" in caplog.text
