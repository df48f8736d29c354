"""Whether an adaptation searches an architecture (``alpha: auto``): only where alpha steps can change the result.

Two conditions, read off the network that starts:

1. The network has a row whose options weights cannot imitate. Those are gates (skips, residuals), ``depth``, and rows with an
   option that is not a linear operation inside 3x3x3 (dilated convolutions, max pooling). Rows of linear candidates alone do not
   count: one kernel can take the values of the other, so weights do the work of alphas.
2. In such a row the best option leads by less than the search can move one alpha: ``alpha_lr`` times the number of alpha steps,
   as Adam moves a parameter by about its rate in each step. After a commitment it leads by ``meta.commit_margin``. A network that
   stays soft needs no change of the best option: there the first condition is enough.

Otherwise alphas stay frozen, and the time of the search goes into weights.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..errors import ConfigError
from ..space.base import Row
from ..space.blocks.operations import candidate_kind
from ..space.candidate_sets import NONE


def imitable(name: str, row: Row) -> bool:
    """Return whether weights can imitate the options of the row ``name``.

    They can where all are linear operations inside 3x3x3, and where all are of one family: the same activation and norm around a
    linear operation inside one kernel. Pairs count as imitable: a kernel of zeros leaves an input out.
    """
    if row.type == "gate" or name == "depth":
        return False
    if row.type == "pair":
        return True
    families = {_family(option) for option in row.options if option != NONE}  # which is never chosen
    return len(families) == 1 and families != {""}


def _family(option: str) -> str:
    """Return the family of operations whose weights can take each other's place: ``linear`` inside 3x3x3, or a candidate's own."""
    try:
        kind = candidate_kind(option).kind
    except ConfigError:  # an option of another space: nothing is known of it
        return ""
    size = "x".join(map(str, candidate_kind(option).size))
    return "linear" if kind.merges else kind.family and f"{kind.family} {size}"


def lead_of(row: Tensor) -> float:
    """Return by how much the largest alpha of a row leads the next one."""
    first, second = row.detach().double().topk(2).values.tolist()
    return float(first - second)


def alpha_reason(
    rows: Mapping[str, Row], alphas: Mapping[str, Tensor], alpha_lr: float, alpha_steps: int, soft: bool = False
) -> tuple[bool, str]:
    """Return whether alpha steps can change the result, and why in one sentence.

    ``rows`` and ``alphas`` have the same names; ``alpha_steps``: how often alphas would step; ``soft``: no genotype is read off.
    """
    reach = alpha_lr * alpha_steps
    chosen = {name: row for name, row in rows.items() if row.type != "sampled" and alphas[name].numel() > 1}
    free = [name for name, row in chosen.items() if not imitable(name, row)]
    if not chosen:
        return False, "the network has no alphas"
    if not free:
        return False, f"weights can imitate the options of all {len(chosen)} row(s)"
    if not alpha_steps:
        return False, "no step searches"
    if soft:
        return True, f"weights cannot imitate the options of {len(free)} row(s), and the network stays soft"
    open_rows = [name for name in free if lead_of(alphas[name]) < reach]
    if open_rows:
        return True, f"{len(open_rows)} of {len(free)} row(s) that weights cannot imitate lead by less than {reach:.3g}"
    return False, f"all {len(free)} row(s) that weights cannot imitate lead by {reach:.3g} or more, which the search cannot turn"
