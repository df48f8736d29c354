"""What a job accepts from a data set's folder that is refused by default."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReadOptions:
    """Switches of the commands that read data sets; each one accepts something that is usually a mistake."""

    follow_links: bool = False  #: files that links or absolute paths place outside the data set's folder
    labels_like_images: bool = False  #: label maps of the scan's shape whose own geometry was lost: they get that of the scan
    any_intensities: bool = False  #: scans whose intensities do not fit those of the others


#: nothing doubtful is accepted
STRICT = ReadOptions()
