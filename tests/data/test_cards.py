from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from metanas_med.data.cards import held_out_datasets, load_card, load_cards, load_distribution, read_card
from metanas_med.data.dataset import read_dataset
from metanas_med.errors import ConfigError
from metanas_med.resources import find_resource, resource_dir

MSD = [f"Task{number:02d}_{organ}" for number, organ in enumerate(
    "BrainTumour Heart Liver Hippocampus Prostate Lung Pancreas HepaticVessel Spleen Colon".split(), 1
)]  # fmt: skip

EXPECTED_OUT = {
    "hippocampus": {"Task04_Hippocampus", "Ext30_BrainASeg", "Ext50_BrainPartsMR", "Ext51_MouseBrainMR"},
    "brain_structures": {
        "Task04_Hippocampus",
        "Ext13_HeadNeckOAR",
        "Ext30_BrainASeg",
        "Ext50_BrainPartsMR",
        "Ext51_MouseBrainMR",
    },
    "spine": {
        "Ext26_VertebraCT",
        "Ext27_VertebraMR",
        "Ext45_VertebraMyoSegMR",
        "Ext46_VertebraT2MR",
        "Ext47_VertebraMixedMR",
        "Ext48_DiscMR",
    },
    "heart": {"Task02_Heart", "Ext12_CardiacACDC"},
    "prostate": {"Task05_Prostate", "Ext20_ProstateMR", "Ext21_ProstateTRUS"},
    "sarcoma": {"Ext15_SarcomaCT", "Ext17_SarcomaPET"},
    # the cord; the brainstem
    "head_neck": {"Ext13_HeadNeckOAR", "Ext23_SpinalCordMR", "Ext25_ThoraxOAR", "Ext30_BrainASeg", "Ext50_BrainPartsMR"},
    "brain_lesions": {"Task01_BrainTumour", "Ext18_BrainTumourBraTS13", "Ext28_MSLesion"},
    "lung": {"Task06_Lung", "Ext24_LungTumourCT", "Ext25_ThoraxOAR"},
    "spleen": {"Task09_Spleen", "Ext29_AbdomenTotalSegPseudo"},
    "liver": {"Task03_Liver", "Task08_HepaticVessel", "Ext29_AbdomenTotalSegPseudo"},
}


def entries():
    return [(card.dataset, card.group, card.related) for card in load_cards().values()]


def test_all_ten_msd_tasks_have_a_card():
    cards = load_cards()
    assert set(MSD) <= set(cards)
    assert [len(cards[name].organs) for name in MSD] == [3, 1, 2, 2, 2, 1, 2, 2, 1, 1]
    assert len(cards["Task01_BrainTumour"].modality) == 4 and len(cards["Task05_Prostate"].modality) == 2
    for path in resource_dir("tasks").glob("*.yaml"):
        assert read_card(path).dataset == path.stem


def test_relations_name_existing_data_sets_and_groups():
    known = set(load_cards()) | {card.group for card in load_cards().values()}
    for card in load_cards().values():
        assert set(card.related) <= known, card.dataset


def test_shipped_cards_fit_the_real_folders(shared_data):
    datasets = {root.name: read_dataset(root) for root in sorted(shared_data.iterdir()) if root.is_dir()}
    for name, dataset in datasets.items():
        card = load_card(name)
        assert card is not None and set(card.organs) == set(dataset.labels), name
    patients = {name: [case.patient for case in dataset.cases] for name, dataset in datasets.items()}
    assert (
        set(patients["Ext20_ProstateMR"]) == set(patients["Ext21_ProstateTRUS"]) and len(set(patients["Ext20_ProstateMR"])) == 27
    )
    assert len(set(patients["Ext23_SpinalCordMR"])) == 1
    assert set(patients["Ext25_ThoraxOAR"]) < set(patients["Ext24_LungTumourCT"])
    assert len(set(patients["Ext12_CardiacACDC"])) == 30
    assert not datasets["Task04_Hippocampus"].patients_known


@pytest.mark.parametrize("group", EXPECTED_OUT)
def test_holding_out_a_group_excludes_exactly_the_related_data_sets(group):
    assert held_out_datasets([group], entries()) == EXPECTED_OUT[group]


@pytest.mark.parametrize("group", "hippocampus heart prostate sarcoma head_neck brain_lesions lung".split())
def test_each_group_has_its_distribution(group):
    distribution = load_distribution(f"without_{group}")
    assert (distribution.name, distribution.datasets, distribution.hold_out) == (f"without_{group}", "all", (group,))


def test_holding_out_is_symmetric_and_follows_one_step():
    sets = [("A", "a", ["B"]), ("B", "b", []), ("C", "c", ["b"]), ("D", "c", []), ("E", "e", ["C"])]
    assert held_out_datasets(["A"], sets) == {"A", "B"}
    assert held_out_datasets(["b"], sets) == {"A", "B", "C"}  # A names B; C names b's group; D and E are two steps away
    assert held_out_datasets(["C"], sets) == {"B", "C", "D", "E"}
    assert held_out_datasets([], sets) == set()
    assert held_out_datasets(["A", "e"], sets) == {"A", "B", "C", "E"}


def test_a_data_set_related_to_a_missing_one_is_still_held_out():
    assert held_out_datasets(["hippocampus"], [("Ext30", "brain", ["hippocampus"]), ("Heart", "heart", [])]) == {"Ext30"}


def test_the_distribution_all_trains_on_everything():
    assert load_distribution("all").hold_out == ()


def card_file(folder: Path, **keys: str) -> Path:
    path = folder / "Toy.yaml"
    tree = {"dataset": "Toy", "group": "toys", "modality": "CT", **keys}
    path.write_text("".join(f"{key}: {value}\n" for key, value in tree.items()))
    return path


def test_a_card_is_read(tmp_path):
    card = read_card(card_file(tmp_path, patient="'(p\\d+)_.*'"))
    assert card.modality == ("CT",) and card.patient_of("p12_left") == "p12" and card.patient_of("x") is None


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"patient": "'(unclosed'"}, "invalid regular expression"),
        ({"patient": "'no_group'"}, "one .group."),
        ({"patient": "'(a)(b)'"}, "one .group."),
        ({"grup": "x"}, "unknown key 'grup'; did you mean 'group'"),
        ({"modality": "XRAY"}, "modality"),
        ({"modality": "[]"}, "modality"),
        ({"organs": "{one: x}"}, "organs"),
        ({"note": "'unclosed"}, "not YAML"),
    ],
)
def test_an_invalid_card_is_refused(tmp_path, keys, message):
    path = card_file(tmp_path, **keys)
    with pytest.raises(ConfigError, match=message) as caught:
        read_card(path)
    assert str(path) in str(caught.value)


def test_distributions_by_path_and_unknown_ones(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ndatasets: [A, B]\nhold_out: [x]\nvalidation: [B]\n")
    assert load_distribution(path).datasets == ("A", "B")
    with pytest.raises(ConfigError, match="without_hipocampus.*did you mean 'without_hippocampus'"):
        load_distribution("without_hipocampus")
    path.write_text("")
    with pytest.raises(ConfigError, match="mine.yaml"):
        load_distribution(path)


def test_resources_are_found_by_stem_and_by_path():
    path = find_resource("tasks", "Task02_Heart")
    assert path.name == "Task02_Heart.yaml" and find_resource("tasks", path) == path
    assert find_resource("tasks", "Task02_Heart.yaml") == path


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "found nothing, expected keys such as dataset, group"),
        ("[a]", "found a list, expected keys such as dataset, group"),
        ("dataset: a", "the key 'group' is missing"),
        (
            "dataset: a\ngroup: b\nmodality: XR",
            "modality: expected CT, MR, PET or US, one for all channels or a list, found 'XR'",
        ),
        ("dataset: a\ngroup: b\nmodality: [CT, 5]", "modality: expected CT, MR, PET or US.*found 5"),
        ("dataset: a\ngroup: b\nmodality: CT\npatient: 5", "patient: expected a regular expression .* or a map .*, found 5"),
        ("dataset: a\ngroup: b\nmodality: CT\npatient: {x: 1}", "patient: expected a regular expression .* or a map .*, found 1"),
        ("dataset: a\ngroup: b\nmodality: CT\norgans: [x]", r"organs: expected a map from label value to name.*found \['x'\]"),
        ("dataset: a\ngroup: b\nmodality: CT\nrelated: x", "related: expected a list of names, such as .lung., found 'x'"),
        ("dataset: 5\ngroup: b\nmodality: CT", "dataset: .*valid string, found 5"),
    ],
)
def test_messages_about_a_card_say_what_was_found(tmp_path, text, told):
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"card\.yaml: {told}"):
        read_card(tmp_path / "card.yaml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: a\ndatasets: Task04", r"datasets: expected all, or a list of names.*found 'Task04'"),
        ("name: a\nhold_out: heart", "hold_out: expected a list of names, such as .heart., found 'heart'"),
        ("datasets: all", "the key 'name' is missing"),
    ],
)
def test_messages_about_a_distribution_say_what_was_found(tmp_path, text, told):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"mine\.yaml: {told}"):
        load_distribution(tmp_path / "mine.yaml")


@pytest.mark.parametrize("pattern", ["(a+)+", "(?:(a|aa))*x", "((?:[a-z]+_?)+)", r"(\w*)*", "(a{1,9}){1,99}", "(a?){40}"])
def test_a_pattern_that_may_never_end_is_refused(tmp_path: Path, pattern: str) -> None:
    card = {"dataset": "D", "group": "g", "modality": "CT", "patient": pattern}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(ConfigError, match="card.yaml: patient: .*for ever"):
        read_card(tmp_path / "card.yaml")


@pytest.mark.parametrize(
    "pattern", [r"(LUNG1-\d+)", r"patient(\d+)_frame\d+", "(a|b)", r"([^\]_]+)_.*", r"(\(a\))+", "([]a]+)x", "(ab)+"]
)
def test_an_ordinary_pattern_is_accepted(tmp_path: Path, pattern: str) -> None:
    card = {"dataset": "D", "group": "g", "modality": "CT", "patient": pattern}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    assert read_card(tmp_path / "card.yaml").patient == pattern
