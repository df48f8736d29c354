from __future__ import annotations

import json
import shutil

import h5py
import pytest

from metanas_med.data import nifti
from metanas_med.data.cache import BadCases, prepare
from metanas_med.data.cached import open_cache
from metanas_med.data.cards import Card
from metanas_med.data.dataset import BadCase, modality_kind, read_dataset, survey_dataset
from metanas_med.data.nifti import read_image
from metanas_med.data.options import ReadOptions
from metanas_med.data.scans import survey_scans
from metanas_med.errors import DataError


def test_a_folder_without_a_card(make_msd):
    root = make_msd("Any folder name", num_cases=2, channels=2)
    dataset = read_dataset(root)
    assert (dataset.name, dataset.group, dataset.related) == ("Any folder name", "Any folder name", ())
    assert dataset.modality == ("MR", "MR")
    assert dataset.labels == dataset.given_labels == {1: "first", 2: "second"}
    assert [(case.name, case.patient) for case in dataset.cases] == [("case_0", "case_0"), ("case_1", "case_1")]
    assert dataset.cases[0].image == root / "imagesTr" / "case_0.nii.gz" and dataset.cases[0].label is not None
    assert not dataset.patients_known


def test_a_card_adds_group_patients_names_and_modality(make_msd):
    card = Card(dataset="Toy", group="toys", modality=("CT",), organs={1: "head"}, patient=r"case_(\d).*", related=("Other",))
    dataset = read_dataset(make_msd("Toy", channels=2), card)
    assert (dataset.group, dataset.related, dataset.modality) == ("toys", ("Other",), ("CT", "CT"))
    assert dataset.labels == {1: "head", 2: "second"} and dataset.given_labels == {1: "first", 2: "second"}
    assert [case.patient for case in dataset.cases] == ["0", "1", "2"] and dataset.patients_known


def test_a_card_next_to_dataset_json_is_used(make_msd):
    root = make_msd("Mine")
    (root / "card.yaml").write_text("dataset: Mine\ngroup: mine\nmodality: PET\npatient: {case_0: a, case_1: a, case_2: b}\n")
    dataset = read_dataset(root)
    assert dataset.modality == ("PET",) and [case.patient for case in dataset.cases] == ["a", "a", "b"]


def test_a_case_without_a_patient_in_the_card_is_refused(make_msd):
    card = Card(dataset="Toy", group="toys", modality=("CT",), patient={"case_0": "a"})
    with pytest.raises(DataError, match="case_1.*does not cover this case"):
        read_dataset(make_msd(), card)


def test_both_label_forms_and_channel_names(make_msd, edit_json):
    root = make_msd()
    edit_json(root, labels={"background": 0, "first": 1, "second": 2}, modality=None, channel_names={"0": "CT"})
    dataset = read_dataset(root)
    assert dataset.labels == {1: "first", 2: "second"} and dataset.modality == ("CT",)


def test_resource_forks_are_ignored(make_msd, edit_json):
    root = make_msd()
    training = json.loads((root / "dataset.json").read_text())["training"]
    fork = {"image": "./imagesTr/._case_0.nii.gz", "label": "./labelsTr/._case_0.nii.gz"}
    edit_json(root, training=[fork, *training], test=["./imagesTs/._case_9.nii.gz"])
    dataset = read_dataset(root)
    assert len(dataset.cases) == 3 and dataset.unlabelled == ()


def test_test_images_are_unlabelled_cases_and_may_be_absent(make_msd, edit_json):
    root = make_msd()
    (root / "imagesTs").mkdir()
    shutil.copy(root / "imagesTr/case_0.nii.gz", root / "imagesTs/case_7.nii.gz")
    edit_json(root, test=["./imagesTs/case_7.nii.gz", "./imagesTs/case_8.nii.gz"])
    (case,) = read_dataset(root).unlabelled
    assert (case.name, case.label, case.patient) == ("case_7", None, "case_7")


def test_a_missing_or_malformed_json_is_refused(make_msd, tmp_path):
    root = make_msd()
    with pytest.raises(DataError, match=r"nowhere: no such folder; expected a folder in MSD layout \(see 'Your own scans'"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"dataset.json: this is a file; expected a folder in MSD layout"):
        read_dataset(root / "dataset.json")
    for content in (b"", b"{", b"\xff\xfe\x00", b"[1, 2]", b'"text"', b"[" * 100_000):
        (root / "dataset.json").write_bytes(content)
        with pytest.raises(DataError, match="malformed, "):
            read_dataset(root)


@pytest.mark.parametrize(
    "changes",
    [
        {"training": None},
        {"training": {}},
        {"training": []},
        {"training": "imagesTr"},
        {"labels": None},
        {"labels": {}},
        {"labels": ["background", "organ"]},
        {"labels": {"0": "background"}},
        {"labels": {"0": "background", "one": "organ"}},
        {"labels": {"0": "background", "1": "organ", "01": "other"}},
        {"labels": {"0": "background", "1": "organ", "2": "organ"}},
        {"labels": {"0": "background", "300": "organ"}},
        {"labels": {"organ": float("inf")}},
        {"labels": {"organ": 1.7}},
        {"labels": {"organ": True}},
        {"modality": None},
        {"modality": {}},
        {"modality": "MRI"},
        {"modality": {"first": "MRI"}},
    ],
)
def test_missing_or_wrong_keys_are_refused(make_msd, edit_json, changes):
    root = make_msd()
    edit_json(root, **changes)
    with pytest.raises(DataError, match="dataset.json") as caught:
        read_dataset(root)
    assert next(iter(changes)) in str(caught.value) or "label" in str(caught.value)


@pytest.mark.parametrize(
    "image", ["../Other/imagesTr/a.nii.gz", "/etc/passwd", "./imagesTr/../../a.nii.gz", "C:/a.nii", "..\\a.nii"]
)
def test_a_path_that_leaves_the_folder_is_refused(make_msd, edit_json, image):
    make_msd("Other")
    root = make_msd()
    label = "./labelsTr/case_0.nii.gz"
    edit_json(root, training=[{"image": image, "label": label}])
    with pytest.raises(DataError, match="leaves the data set's folder"):
        read_dataset(root)
    edit_json(root, training=[{"image": "./imagesTr/case_0.nii.gz", "label": image}])
    with pytest.raises(DataError, match="leaves the data set's folder"):
        read_dataset(root)
    edit_json(root, training=[{"image": "./imagesTr/case_0.nii.gz", "label": label}], test=[image])
    with pytest.raises(DataError, match="leaves the data set's folder"):
        read_dataset(root)


def test_links_may_stay_inside_but_not_leave(make_msd, tmp_path):
    root = make_msd()
    case = root / "imagesTr/case_0.nii.gz"
    case.rename(root / "imagesTr/moved.nii.gz")
    case.symlink_to("moved.nii.gz")
    assert len(read_dataset(root).cases) == 3
    outside = tmp_path / "outside.nii.gz"
    shutil.copy(case, outside)
    case.unlink()
    case.symlink_to(outside)
    with pytest.raises(DataError, match="case_0.*is a link that leaves"):
        read_dataset(root)
    linked_root = tmp_path / "Linked"
    linked_root.symlink_to(make_msd("Target"))
    assert read_dataset(linked_root).name == "Linked"


def test_missing_files_duplicates_and_invalid_entries_are_all_listed(make_msd, edit_json):
    root = make_msd(num_cases=3)
    training = json.loads((root / "dataset.json").read_text())["training"]
    (root / "labelsTr/case_1.nii.gz").unlink()
    edit_json(
        root,
        training=[
            *training,
            training[2],
            {"image": "./imagesTr/case_0.nii.gz"},
            "./imagesTr/case_0.nii.gz",
            {"image": 1, "label": 2},
        ],
    )
    dataset, problems = survey_dataset(root)
    assert [case.name for case in dataset.cases] == ["case_0", "case_2"]
    assert [row.case for row in problems] == ["case_1", "case_2", "training[4]", "training[5]", "training[6]"]
    assert "no such file" in problems[0].problem and "twice" in problems[1].problem
    with pytest.raises(DataError, match="case_1.*and 4 more"):
        read_dataset(root)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CT", "CT"),
        ("MRI", "MR"),
        ("cine MRI", "MR"),
        ("T2", "MR"),
        ("FDG-PET", "PET"),
        ("TRUS", "US"),
        ("noncontrast", "noncontrast"),
    ],
)
def test_the_kind_of_a_modality_is_read_from_whole_words(text, kind):
    assert modality_kind(text) == kind


def test_a_byte_order_mark_is_accepted(make_msd):
    """Some editors on Windows write one."""
    root = make_msd()
    where = root / "dataset.json"
    where.write_bytes(b"\xef\xbb\xbf" + where.read_bytes())
    assert read_dataset(root).name == root.name


def test_skip_bad_is_suggested_only_for_cases():
    """A case can be set aside; a data set without a readable dataset.json cannot."""
    assert "--skip-bad" in str(BadCases([BadCase("D", "c", "truncated")]))
    assert "--skip-bad" not in str(BadCases([BadCase("D", "", "no such file")]))


@pytest.mark.parametrize("of", ["scan", "cache"])
def test_a_missing_permission_is_not_reported_as_damage(of, make_msd, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    if of == "scan":
        scan = next((make_msd() / "imagesTr").glob("*.nii.gz"))
        monkeypatch.setattr(nifti, "open", refuse, raising=False)
        with pytest.raises(DataError, match="no read permission; change its permissions"):
            read_image(scan)
    else:
        (tmp_path / "D.h5").write_bytes(b"")
        monkeypatch.setattr(h5py, "File", refuse)
        with pytest.raises(DataError, match="no read permission; change its permissions"):
            open_cache(tmp_path / "D.h5")


def test_channel_names_are_kept_as_written(make_msd, edit_json, cache_dir):
    root = make_msd("Two", channels=2)
    edit_json(root, modality={"1": "T2 FLAIR", "0": "T1gd"})
    assert read_dataset(root).channel_names == ("T1gd", "T2 FLAIR")
    edit_json(root, modality=None, channel_names={"0": "T1w", "1": "FLAIR"})
    card = Card(dataset="Two", group="toys", modality=("MR",))
    assert read_dataset(root, card).channel_names == ("T1w", "FLAIR")
    (row,) = prepare([root], cache_dir)
    assert row.channel_names == ("T1w", "FLAIR") == open_cache(cache_dir / "Two.h5").channel_names
    edit_json(root, channel_names={"0": "FLAIR", "1": "T1w"})
    assert [row.status for row in prepare([root], cache_dir)] == ["built"]  # the names are part of what the cache holds
    assert open_cache(cache_dir / "Two.h5").channel_names == ("FLAIR", "T1w")
    assert survey_scans(root)[0].channel_names == ("FLAIR", "T1w")
    assert survey_scans(root / "imagesTr")[0].channel_names == ()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"modality": None}, "the key 'modality' is missing; expected {'0': 'CT'}"),
        ({"modality": {}}, "'modality' is empty; expected {'0': 'CT'}"),
        ({"modality": "MRI"}, "'modality' is a text ('MRI'); expected {'0': 'CT'}"),
        ({"modality": ["MRI"]}, "'modality' is a list (['MRI']); expected {'0': 'CT'}"),
        ({"modality": 7}, "'modality' is a number (7); expected {'0': 'CT'}"),
        ({"modality": {"0": ["CT"]}}, "'modality' gives ['CT'] for channel 0, expected a text such as 'CT'"),
        ({"modality": {"0": None}}, "'modality' gives None for channel 0, expected a text such as 'CT'"),
        ({"modality": None, "channel_names": ["CT"]}, "'channel_names' is a list (['CT']); expected {'0': 'CT'}"),
        ({"modality": None, "channel_names": {"x": "CT"}}, "'channel_names' has keys ['x'], expected channel numbers"),
    ],
)
def test_messages_about_the_modality_say_what_was_found(make_msd, edit_json, changes, told):
    root = make_msd()
    edit_json(root, **changes)
    with pytest.raises(DataError) as caught:
        read_dataset(root)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"training": None}, "the key 'training' is missing; expected a list of cases"),
        ({"training": {"a": 1}}, "'training' is an object ({'a': 1}), expected a list of cases"),
        ({"training": {}}, "'training' is an object ({}), expected a list of cases"),
        ({"training": "imagesTr"}, "'training' is a text ('imagesTr'), expected a list of cases"),
        ({"training": 0}, "'training' is a number (0), expected a list of cases"),
        ({"test": {"a": 1}}, "'test' is an object ({'a': 1}), expected a list of cases"),
        ({"labels": None}, "the key 'labels' is missing; expected {'0': 'background', '1': name, ...}"),
        ({"labels": ["background", "organ"]}, "'labels' is a list (['background', 'organ']); expected {'0'"),
        ({"labels": "organ"}, "'labels' is a text ('organ'); expected {'0'"),
        ({"labels": {}}, "'labels' is empty; expected {'0'"),
        ({"labels": {"0": "background", "1": ["a", "b"]}}, "found label '1': ['a', 'b'], expected a value and a name"),
        ({"labels": {"0": "background", "1": "a", "01": "b"}}, "'labels' gives value 1 twice, to 'a' and 'b'; expected one name"),
        ({"labels": {"0": "background", "300": "a"}}, "found label '300': 'a', expected a value in 0..255"),
        ({"labels": {"a": -1}}, "found label 'a': -1, expected a value in 0..255"),
        ({"training": [7]}, "found a number (7) in dataset.json, expected {'image': path, 'label': path}"),
        ({"training": [["a", "b"]]}, "found a list (['a', 'b']) in dataset.json, expected {'image'"),
        ({"training": [{"image": "a.nii"}]}, "found {'image': 'a.nii'} in dataset.json, without 'label'; expected {'image'"),
        ({"training": [{"image": 7, "label": "b.nii"}]}, "found a number (7) as path in dataset.json, expected a text such as"),
        ({"training": [{"image": [], "label": "b"}]}, "found an empty list as image in dataset.json, expected a path for each"),
        ({"training": [{"image": ["a", 7], "label": "b"}]}, "found a number (7) as path in dataset.json, expected a text"),
        ({"training": [{"image": "", "label": "b.nii"}]}, "found the path '' in dataset.json, expected a text such as"),
    ],
)
def test_messages_say_what_was_found(make_msd, edit_json, changes, told):
    root = make_msd()
    edit_json(root, **changes)
    with pytest.raises(DataError) as caught:
        read_dataset(root)
    assert told in str(caught.value)


@pytest.mark.parametrize("key", ["labels", "modality"])
def test_a_key_that_is_given_twice_is_refused(make_msd, key):
    """JSON readers take the last of both without a word."""
    root = make_msd()
    tree = json.loads((root / "dataset.json").read_text())
    text = json.dumps({**tree, key: "TWICE"}).replace('"TWICE"', '{"0": "CT", "1": "a", "1": "b"}')
    (root / "dataset.json").write_text(text)
    with pytest.raises(DataError, match="the key '1' appears twice, with different values"):
        read_dataset(root)


FOLLOW = ReadOptions(follow_links=True)


@pytest.mark.parametrize("kind", ["link", "absolute", "parts", "folder"])
def test_files_outside_the_folder_are_read_on_request(make_msd, edit_json, cache_dir, kind):
    store, root = make_msd("Store"), make_msd("Toy", seed=1)
    entries = json.loads((root / "dataset.json").read_text())["training"]
    for part in ("imagesTr", "labelsTr"):
        if kind == "folder":
            shutil.rmtree(root / part)
            (root / part).symlink_to(store / part)
        for path in (root / part).iterdir() if kind == "link" else ():
            path.unlink()
            path.symlink_to(store / part / path.name)
    place = {"absolute": f"{store}/", "parts": "../Store/"}.get(kind, "")
    edit_json(root, training=[{key: place + text for key, text in entry.items()} for entry in entries])
    for read in (survey_dataset, survey_scans):
        problems = read(root)[1]
        assert len(problems) == 3 and all("leaves the data set's folder" in row.problem for row in problems)
        assert all("--follow-links" in row.problem for row in problems)
        assert read(root, options=FOLLOW)[1] == []
    prepare([root], cache_dir, options=FOLLOW)
    prepare([store], cache_dir)
    found, want = open_cache(cache_dir / "Toy.h5"), open_cache(cache_dir / "Store.h5")
    assert [case.name for case in found.cases] == ["case_0", "case_1", "case_2"]
    assert [case.content_hash for case in found.cases] == [case.content_hash for case in want.cases]
    with pytest.raises(BadCases, match="--follow-links"):  # a prepared data set does not make the switch last
        prepare([root], cache_dir)
    assert prepare([root], cache_dir, options=FOLLOW)[0].status == "fresh"
