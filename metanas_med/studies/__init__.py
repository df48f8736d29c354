"""Studies: what measures the toolkit itself. They import every other room; no room imports them."""
