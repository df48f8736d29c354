"""Card sections: one is added in one file; a section without anything to say is left out."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from metanas_med.report.card import CARD_SECTIONS, Block, RunRecord, card_blocks

ADDED = '''
from metanas_med.report.card import Block, register_card_section


@register_card_section("support")
def support(record):
    """How many scans the model was fitted to."""
    if "adaptation" not in record.notes:
        return None
    number = len(record.notes["adaptation"]["support"])
    return Block("Support", {"scans": number}, {"scans": "adaptation.json, support"})
'''


def test_a_card_section_is_added_in_one_file(tmp_path: Path) -> None:
    assert len(ADDED.splitlines()) < 50
    (tmp_path / "support_section.py").write_text(ADDED)
    spec = importlib.util.spec_from_file_location("support_section", tmp_path / "support_section.py")
    assert spec and spec.loader
    with CARD_SECTIONS.extended():
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        found = card_blocks(RunRecord(tmp_path, {"adaptation": {"support": ["a", "b"]}}))
        assert found == [Block("Support", {"scans": 2}, {"scans": "adaptation.json, support"})]
        assert card_blocks(RunRecord(tmp_path)) == []
    assert "support" not in CARD_SECTIONS.names()
