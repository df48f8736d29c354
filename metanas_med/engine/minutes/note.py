"""What ``adaptation.json`` says of a search, and its lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .estimate import Expected
from .results import DEFAULT_NAME, Choice, Results, Round
from .search import Search


def search_note(search: Search, choice: Choice, expected: Expected, ids: Mapping[str, str]) -> dict[str, Any]:
    """Return what was tried and chosen, why, and what to expect. ``ids``: identifiers of cases by name."""
    results = search.results
    return {
        "tried": [_tried(search, name, choice) for name in search.candidates if any(name in r.names for r in search.rounds)],
        "rounds": [_round(results, r, ids) for r in search.rounds if r.kind != "final"],
        "chosen": {
            "name": choice.name,
            "configuration": search.candidates[choice.name].configuration.to_json(),
            "differs_from_default": choice.name != DEFAULT_NAME,
            "why": choice.why,
            "averages": choice.averages,
            "why_averages": choice.why_averages,
            "tta": choice.tta,
            "why_tta": choice.why_tta,
        },
        "expected": expected.to_json(),
    }


def _tried(search: Search, name: str, choice: Choice) -> dict[str, Any]:
    """Return the row of a configuration: its last round, Dice there, and its lead over the default."""
    results = search.results
    own = [r for r in search.rounds if name in r.names and r.kind == "halving"]
    done = [(r, scores) for r in own if (scores := results.scores(r, name))]
    lead = choice.leads.get(name)
    row: dict[str, Any] = {"name": name, "rounds": len(own), "dice": None, "seconds": 0.0, "steps": 0}
    if done:
        from .halving import mean_of

        last, scores = done[-1]
        fits = results.done(last, name)
        row |= {"dice": mean_of(scores), "seconds": last.seconds, "steps": round(sum(sum(f.steps) for f in fits) / len(fits))}
    row |= {"lead": lead.mean if lead else None, "standard_error": _finite(lead.se) if lead else None}
    return row | {"failed": results.failures(name), "chosen": name == choice.name}


def _round(results: Results, r: Round, ids: Mapping[str, str]) -> dict[str, Any]:
    """Return a round with the Dice of each configuration by scan and organ."""

    def shared(name: str) -> dict[str, Any]:
        return {
            f"{ids.get(s.partition('/')[0], s)}{''.join(s.partition('/')[1:])}": v for s, v in results.scores(r, name).items()
        }

    return {**r.to_json(), "dice": {name: shared(name) for name in r.names}}


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None
