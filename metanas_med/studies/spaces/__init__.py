"""``spaces``: every search space with five task learners on one organ: the price of a step, and what was derived."""

from ..grid.arguments import cell_study

STUDY = cell_study(
    "spaces",
    "every search space with five task learners: the price of a search step, and what was derived; resumable",
    "spaces",
    config="spaces",
    report="spaces.csv and spaces.md: from the cells that are done, or without cells the page from a published spaces.csv",
    dry_run="the cells that are left, and how long they take",
    settings="SpacesSettings",
)
