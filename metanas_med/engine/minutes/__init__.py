"""``adapt --minutes``: the best model that a time budget can buy from a few annotated scans."""
