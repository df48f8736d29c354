"""Which licences of data sets allow that a start learned from them is shipped.

A licence text is read strictly: it begins with a known licence, and what follows is where it is stated, or a known remark. A
person reads every other text and changes the list here.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

from ...data.dataset import read_dataset_json

#: licences that allow derived works for every use
_ALLOWED = (
    r"CC[ -]BY(?:-SA)?(?:[ -](?:1\.0|2\.0|2\.5|3\.0|4\.0))?",
    r"Creative Commons Attribution(?:[ -]Share[ -]?Alike)?(?: (?:1\.0|2\.0|2\.5|3\.0|4\.0)(?: International)?)?",
    r"Apache(?:[ -]License)?(?:,? Version|-)? ?2\.0",
    r"MIT(?: Licen[cs]e)?",
)
#: remarks after the licence that restrict nothing
_REMARKS = (r"origin of the images not further documented there",)
_LICENCE = re.compile(rf"(?:{'|'.join(_ALLOWED)})(?: ?\((?P<where>[^()]*)\))?(?: ?; (?:{'|'.join(_REMARKS)}))?\.?", re.IGNORECASE)
#: words that say where a licence is stated; names of files and folders (with a dot, a slash or a line under it) may be among them
_PLACES = frozenset("license licence readme of the in see as stated repository data set dataset file page".split())
_NAME = re.compile(r"[\w-]*[\w-][./_][\w./-]*", re.ASCII)
#: parts of a name that may restrict the use, or that name another licence, as in License_CC_BY_NC.txt
_RESTRICTS = frozenset("nc nd non noncommercial commercial research academic only gpl agpl lgpl cc by sa mit apache bsd".split())
#: a longer text is more than a name and a place
_MOST_SIGNS = 300
EXPECTED = "CC BY, CC BY-SA, Apache-2.0 or MIT, without a restriction"


def allows_start(text: Any) -> bool:
    """Return whether a licence text allows a shipped start.

    >>> allows_start("CC BY 3.0 (ibsi_validation/LICENSE.md)"), allows_start("CC BY-NC 4.0")
    (True, False)
    """
    if not isinstance(text, str) or len(text) > _MOST_SIGNS:
        return False
    found = _LICENCE.fullmatch(" ".join(unicodedata.normalize("NFKC", text).split()))
    return bool(found) and all(_says_where(word) for word in (found["where"] or "").lower().split())


def _says_where(word: str) -> bool:
    """Return whether a word of a remark in brackets says where the licence is stated, and nothing else."""
    word = word.rstrip(",:")
    return word in _PLACES or bool(_NAME.fullmatch(word) and _RESTRICTS.isdisjoint(re.split(r"[\W_]+", word)))


def licences_of(folder: Path) -> list[Any]:
    """Return what a data set's own dataset.json gives as its licence, in either spelling; [""] if it gives none."""
    tree = read_dataset_json(folder)
    return [value for key, value in tree.items() if key.strip().lower() in ("licence", "license")] or [""]
