"""The architecture that the authors of DiNTS published, as facts: which edges are on, and their operations.

``research-contributions/DiNTS/arch_code_cvpr.pth`` of Project MONAI. Twelve blocks of ten edges at four levels; the published settings
are ``form: native, blocks: 12, levels: 4, dims: 3``.
"""

from __future__ import annotations

from .parts import OPERATIONS

#: block by block: the edges that are on, and the operation of each edge (0 skip, 1 3x3x3, 2 3x3x1, 3 3x1x3, 4 1x3x3 first)
_CVPR = """
1011111010 1313212011  1111011011 1031021243  1111111011 3002101210  1011111110 4221211013
1111011111 1140041111  1011111111 2000444111  1111010111 4300240103  1111110011 1100340413
1111011111 1002000011  1111011111 1423443031  1110011111 2023020032  1100000111 4400143021
"""


def dints_cvpr() -> dict[str, str]:
    """Return the published architecture as options by row."""
    words, names, picks = _CVPR.split(), list(OPERATIONS[3]), dict[str, str]()
    for block, (on, operations) in enumerate(zip(words[::2], words[1::2], strict=True)):
        for e, (bit, operation) in enumerate(zip(on, operations, strict=True)):
            picks[f"block{block}/edge{e}"] = "on" if bit == "1" else "off"
            if bit == "1":
                picks[f"block{block}/edge{e}/op"] = names[int(operation)]
    return picks
