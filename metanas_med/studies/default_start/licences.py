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
#: words that may restrict the use, or name another licence; where a licence is stated needs none of them
_RESTRICTS = re.compile(
    r"\b(?:nc|nd|non\w*|no|not|without|with|[al]?gpl\w*|cc0?|by|sa|mit|apache|bsd|public|research|academic|educational?|teaching|"
    r"clinical|personal|only|\w*commercial\w*|\w*deriv\w*|un\w+|restrict\w*|limit\w*|prohibit\w*|except\w*|but|unless|if|some|"
    r"partly|parts?|others?|own|proprietary|permission|agreement|terms|conditions?|modified|clause|request|check\w*)\b",
    re.IGNORECASE,
)
EXPECTED = "CC BY, CC BY-SA, Apache-2.0 or MIT, without a restriction"


def allows_start(text: Any) -> bool:
    """Return whether a licence text allows a shipped start.

    >>> allows_start("CC BY 3.0 (ibsi_validation/LICENSE.md)"), allows_start("CC BY-NC 4.0")
    (True, False)
    """
    if not isinstance(text, str):
        return False
    plain = " ".join(unicodedata.normalize("NFKC", text).split())
    found = _LICENCE.fullmatch(plain)
    # a line under a word joins it with the next: (License_CC_BY_NC.txt)
    return bool(found) and not _RESTRICTS.search(re.sub(r"[\W_]+", " ", found["where"] or ""))


def licences_of(folder: Path) -> list[Any]:
    """Return what a data set's own dataset.json gives as its licence, in either spelling; [""] if it gives none."""
    tree = read_dataset_json(folder)
    return [value for key, value in tree.items() if key.strip().lower() in ("licence", "license")] or [""]
