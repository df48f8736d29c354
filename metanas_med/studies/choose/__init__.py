"""``scores``: what cheap scores are worth when one of several configurations must be chosen from five scans."""

from ..grid.arguments import cell_study

STUDY = cell_study(
    "scores",
    "what cheap scores are worth in the choice of a configuration from five scans; resumable",
    "choose",
    config="choose",
    report="scores.csv and scores.md from the cells that are done",
    dry_run="how many cells there are, and how many are done",
    settings="ChooseSettings",
)
