"""``minutes``: Dice against minutes, of ``adapt --minutes`` and of other ways to spend the same time."""

from ..grid.arguments import cell_study

STUDY = cell_study(
    "minutes",
    "Dice against minutes, of adapt --minutes and of other ways to spend the time; resumable",
    "minutes",
    config="minutes",
    report="minutes.csv, minutes.md and minutes.png",
    dry_run="the cells that are left, and how long they take",
    settings="MinutesStudySettings",
)
