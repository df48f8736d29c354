"""Names of cases: those of their files, or those of their folders where files of different folders have the same name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

_LONGEST = 1000  # characters of a path
#: ends of the names of scans and label maps; a DICOM series is a folder, of any name
SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
_SUFFIX = re.compile(r"\.(nii(\.gz)?|nrrd|mha)$")


def without_suffix(name: str) -> str:
    """Return the name of a scan's file without its suffix."""
    return _SUFFIX.sub("", name)


class Scheme(NamedTuple):
    """How a name is made: of the last ``depth`` folders, joined by ``_``, and (or) of the file."""

    depth: int = 0
    file: bool = True

    def name(self, path: PurePath) -> str:
        """Return the name of a path; that of the file if it is in no folder."""
        folders = [part for part in path.parent.parts if part not in ("..", ".") and part != path.anchor]
        parts = folders[len(folders) - self.depth :] if self.depth <= len(folders) else folders
        stem = case_name(path.name)
        return "_".join([*parts, stem] if self.file or not parts else parts)


def case_name(text: Any) -> str:
    """Return the file name of a path without the suffix of a scan; an empty string for anything that cannot be a name."""
    if not isinstance(text, str) or not text.isprintable() or len(text) > _LONGEST:
        return ""
    name = without_suffix(PurePath(text.replace("\\", "/")).name)
    return name if name.strip(".") else ""


def scheme_for(paths: Iterable[PurePath], first: Scheme | None = None, taken: Sequence[str] = ()) -> Scheme:
    """Return the shortest scheme under which all different ``paths`` have different names, none of them in ``taken``.

    The order of the paths does not matter. ``first`` is tried first. If no scheme is enough, the names are those of the files.
    """
    different = set(paths)
    deepest = max((len(path.parts) - 1 for path in different), default=0)
    schemes = [Scheme(), *(Scheme(depth, file) for depth in range(1, deepest + 1) for file in (False, True))]
    for scheme in [*([first] if first else []), *schemes]:
        names = {scheme.name(path) for path in different}
        if len(names) == len(different) and not names & set(taken):
            return scheme
    return first or Scheme()
