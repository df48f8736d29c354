"""A label-free task is added by one short file, and then chosen by its name in the settings of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metanas_med.engine.search import search_architecture
from metanas_med.errors import ConfigError
from metanas_med.pretext import check_pretexts
from metanas_med.pretext.registry import PRETEXTS

PRETEXT = '''
import torch
from metanas_med.data.patches import Volume
from metanas_med.pretext.base import CROP_CONTENT, box, draw_crop
from metanas_med.pretext.registry import register_pretext


@register_pretext("bright")
class Bright:
    """Which voxels are brighter than the median of the crop?"""

    names = ("bright",)

    def __init__(self, settings, frame, generator):
        self.shape = frame.view

    def volume(self, scan, generator):
        start = draw_crop(scan, self.shape, generator, CROP_CONTENT)
        image = torch.from_numpy(scan.image[(slice(None), *box(start, self.shape))].copy())
        return Volume(scan.name, image, (image[0] > image[0].median()).to(torch.uint8))
'''


def test_a_pretext(
    add_part: Callable[..., None], phantoms: Path, tiny_settings: Callable[..., Any], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("METANAS_MED_CACHE", str(tmp_path / "home"))
    with pytest.raises(ConfigError, match="unknown pretext 'bright'"):
        check_pretexts(["bright"])
    add_part(PRETEXTS, "metanas_med.pretext", PRETEXT)
    changes = {"plan.view_voxels": 1000, "pretext.scans": 2, "meta.iterations": 1, "meta.batch": 1, "meta.num_validation": 0}
    out = search_architecture(tiny_settings(**changes), [phantoms / "Phantom01_Bean"], tmp_path / "run", "bright")
    (row,) = (json.loads(line) for line in (out / "iteration.jsonl").read_text().splitlines())
    assert row["loss"] > 0 and json.loads((out / "settings.json").read_text())["pretext"]["names"] == ["bright"]
