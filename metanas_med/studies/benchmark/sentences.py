"""The sentences of the benchmark's page: who wins, by how much, beyond noise or not, and which goals are reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...report.statistics import Margin, mean_ranks
from .cells import REFERENCE_STEPS
from .compare import OURS, Row, at, by_organ, cell_mean, devices, difference, matched, same_devices, whole
from .methods import METHODS
from .settings import BenchmarkSettings
from .tables import complete, methods_in, num_organs, sentence

#: goal by shots: Dice by which ours leads every other method at equal gradient evaluations
GOALS = {5: 0.03, 1: 0.05}
#: our method with the time of ten adaptations
LONG = f"{OURS}-10x"
#: goal: the share of nnU-Net's time that ours may take
NNUNET_SHARE = 1 / 50


def _rank_words(rows: Sequence[Row]) -> list[str]:
    """Return the methods by their mean rank over organs, where two or more can be ranked."""
    means, keys, full = complete(rows)
    if len(full) < 2:
        return []
    ranks = sorted(mean_ranks(full).items(), key=lambda item: item[1])
    left = ", ".join(f"`{name}`" for name in means if name not in full)
    words = f"Mean rank over {len(keys)} organ(s): {', '.join(f'`{name}` {rank:.1f}' for name, rank in ranks)}."
    return [f"{words} Not ranked, because they have fewer organs or draws: {left}." if left else words]


def sentences_of(rows: Sequence[Row], shots: int, claim: BenchmarkSettings | None, left_out: Sequence[str] = ()) -> list[str]:
    """Return which method wins, by how much, and whether that is beyond noise.

    With ``claim``, also which of its goals are reached. ``left_out``: methods that the claim does not cover.
    """
    ours = at(rows, OURS, REFERENCE_STEPS)
    if not ours:
        return [f"`{OURS}` has no cell here yet."]
    lines, organs = [], num_organs(rows)
    rivals = [m for m in methods_in(rows) if m != OURS and not METHODS[m].timed]
    for name in ("equal gradient evaluations", "equal seconds"):
        margins = {m: margin for m in rivals if (margin := difference(*matched(rows, m, REFERENCE_STEPS)[name]))}
        if margins:
            # a mean over fewer organs is not comparable
            full = [m for m in margins if margins[m].organs == max(other.organs for other in margins.values())]
            strongest = min(full, key=lambda m: margins[m].mean)
            lines.append(f"At {name}, {sentence(strongest, margins[strongest], organs=organs)}, the strongest other method here.")
        if name == "equal gradient evaluations" and shots in GOALS and claim and _rivals(claim.methods):
            lines.append(_goal(rows, margins, claim, GOALS[shots], _rivals(left_out)))
    for other in (f"{OURS}-frozen", f"{OURS}-random"):
        margin = difference(ours, at(rows, other, REFERENCE_STEPS))
        if margin:
            lines.append(f"Adapting alpha: {sentence(other, margin, organs=organs)}, at equal steps.")
    lines += _architecture_words(rows) + _long_words(rows)
    lines += _cost_words(rows) + _nnunet_words(rows) + _rank_words(rows)
    return lines + _worst_words(rows)


def _worst_words(rows: Sequence[Row]) -> list[str]:
    """Return the organs on which ours is below every other ranked method; empty where ours cannot be ranked."""
    _, keys, full = complete(rows)
    if OURS not in full or len(full) < 2:
        return []
    worst = [key[1] for place, key in enumerate(keys) if full[OURS][place] < min(v[place] for m, v in full.items() if m != OURS)]
    return [
        f"Organs on which `{OURS}` is the worst ranked method: {', '.join(sorted(worst))}."
        if worst
        else f"`{OURS}` is never the worst ranked method."
    ]


def _rivals(names: Sequence[str]) -> list[str]:
    """Return the methods that the claim compares with."""
    return [m for m in names if m != OURS and not (METHODS[m].timed or METHODS[m].plain or METHODS[m].label_free)]


def _goal(
    rows: Sequence[Row], margins: Mapping[str, Margin], claim: BenchmarkSettings, goal: float, left_out: Sequence[str]
) -> str:
    """Return whether the goal is reached.

    It is judged once every method of the claim has all organs, draws and seeds of all test data sets.
    """
    ours = at(rows, OURS, REFERENCE_STEPS)
    missing = [] if whole(ours, OURS, claim) else [OURS]
    for method in _rivals(claim.methods):
        _, other = matched(rows, method, REFERENCE_STEPS)["equal gradient evaluations"]
        if set(by_organ(other)) != set(by_organ(ours)) or not whole(other, method, claim):
            missing.append(method)
    reached = [m for m, margin in margins.items() if margin.mean >= goal]
    count = f"reached against {len(reached)} of {len(margins)}"
    if missing or not margins:
        state = "not yet judged"
    else:
        state = "reached" if len(reached) == len(margins) else f"missed: {count}"
        unsure = [m for m in reached if not margins[m].beyond_noise] if state == "reached" else []
        state += f" in the mean, but not confirmed against {', '.join(f'`{m}`' for m in unsure)}" if unsure else ""
    notes = [f"cells are missing: {', '.join(missing)}", *([f"so far {count}"] if margins else [])] if missing else []
    notes += [f"left out: {', '.join(left_out)}"] if left_out else []
    note = f" ({'; '.join(notes)})" if notes else ""
    return f"Goal (at least {goal:+.2f} over every other method at equal gradient evaluations): {state}{note}."


def _architecture_words(rows: Sequence[Row]) -> list[str]:
    """Return in how many cells adapting alpha changed the architecture; empty where that is not known."""
    keys = ("held_out", "dataset", "target", "shots", "draw", "seed")
    ours, kept = (
        {tuple(r[k] for k in keys): found for r in at(rows, m, REFERENCE_STEPS) if (found := r.get("architecture"))}
        for m in (OURS, f"{OURS}-frozen")
    )
    both = set(ours) & set(kept)
    if not both:
        return []
    moved = sum(ours[key] != kept[key] for key in both)
    return [f"Adapting alpha changed the architecture in {moved} of {len(both)} cells."]


def _long_words(rows: Sequence[Row]) -> list[str]:
    """Return the margins of the meta-learned start over the other methods with the time of ten adaptations."""
    lines, organs = [], num_organs(rows)
    ours, times = at(rows, LONG, REFERENCE_STEPS), METHODS[LONG].times
    for method in (m for m in methods_in(rows) if METHODS[m].times == times and m != LONG):
        if margin := difference(*same_devices(ours, at(rows, method, REFERENCE_STEPS))):
            lines.append(f"In the time of ten adaptations, {sentence(method, margin, ours=LONG, organs=organs)}.")
    return lines


def _cost_words(rows: Sequence[Row]) -> list[str]:
    """Return the cost of the found networks relative to the fixed U-Net."""
    ours, fixed = at(rows, OURS, REFERENCE_STEPS), at(rows, "reptile", REFERENCE_STEPS)
    margin = difference(ours, fixed)
    if not margin:
        return []
    share = cell_mean(ours, "multiply_adds") / cell_mean(fixed, "multiply_adds")
    words = sentence("reptile", margin, organs=num_organs(rows))
    return [f"The found networks cost {share:.2f} times the multiply-adds of the fixed U-Net; {words}."]


def _share_words(ours: Sequence[Row], other: Sequence[Row], goal: bool) -> str:
    """Return the share of the other method's time that ours takes, and whether it reaches the goal.

    No share where devices differ.
    """
    if devices(ours) != devices(other):
        return f"on other devices ({devices(ours)}; {devices(other)}), so times are not compared"
    share = cell_mean(ours, "seconds") / cell_mean(other, "seconds")
    within = "within" if share <= NNUNET_SHARE else "over"
    return f"in 1/{1 / share:.0f} of its time" + (f" ({within} the goal of 1/{1 / NNUNET_SHARE:.0f})" if goal else "")


def _nnunet_words(rows: Sequence[Row]) -> list[str]:
    lines = []
    for method in (m for m in methods_in(rows) if m.startswith("nnunet")):
        ours, other = at(rows, OURS, REFERENCE_STEPS), at(rows, method, REFERENCE_STEPS)
        margin = difference(ours, other)
        if margin:
            both = {(r["dataset"], r["draw"], r["seed"]) for r in ours} & {(r["dataset"], r["draw"], r["seed"]) for r in other}
            ours, other = ([r for r in part if (r["dataset"], r["draw"], r["seed"]) in both] for part in (ours, other))
            words = _share_words(ours, other, bool(METHODS[method].minutes))
            lines.append(f"{sentence(method, margin, organs=num_organs(rows))}, {words}.")
    return lines
