"""What the finished fits of a search say: scores by configuration, the choice, and the Dice to expect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from ...search.choice import Lead, one_standard_error
from .budget import Cost
from .estimate import Expected, expect
from .fits import Fitted
from .folds import Splits
from .halving import Scores, by_scan, differences, mean_of
from .portfolio import DEFAULT
from .store import Store

#: name of the default configuration
DEFAULT_NAME = DEFAULT.configuration.name


@dataclass
class Round:
    """One round: what is fitted on the folds of ``repeats`` splits, and for how many seconds a fit."""

    index: int
    kind: str  #: "halving"; "average": several fits on each fold that share its seconds; "final": members of the final average
    names: list[str]  #: of configurations
    seconds: float  #: of each fit
    repeats: int = 1
    members: int = 1
    tta: bool = False  #: also scored with test-time augmentation

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass
class Choice:
    """What was chosen, and why."""

    name: str = DEFAULT_NAME
    why: str = ""
    averages: bool = False
    why_averages: str = ""
    tta: bool = False
    why_tta: str = ""
    leads: dict[str, Lead] = field(default_factory=dict)  #: over the default, by name, in the last round of each


@dataclass
class Results:
    """The finished fits of the ``rounds`` of a search."""

    store: Store
    splits: Splits
    names: Sequence[str]  #: of all configurations
    rounds: list[Round] = field(default_factory=list)

    def places(self, r: Round) -> list[tuple[int, int]]:
        """Return repeat and number of each fold of a round."""
        return [(repeat, k) for repeat, folds in enumerate(self.splits.repeats[: r.repeats]) for k in range(len(folds))]

    def key(self, r: Round, name: str, repeat: int, number: int) -> str:
        """Return the name of the files of a fit."""
        return f"{r.index}-{r.kind}-{self.names.index(name)}-{repeat}-{number}"

    def done(self, r: Round, name: str) -> list[Fitted]:
        """Return the finished fits of a configuration in a round on folds."""
        return [f for place in self.places(r) if (f := self.store.get(self.key(r, name, *place)))]

    def scores(self, r: Round, name: str, tta: bool = False) -> Scores:
        """Return Dice by scan and organ of a configuration in a round; empty unless all its fits succeeded.

        An organ that no training scan of a fold holds does not count there.
        """
        found: list[Scores] = []
        for repeat, number in self.places(r):
            fitted = self.store.get(self.key(r, name, repeat, number))
            scores = (fitted.tta_scores if tta else fitted.scores) if fitted and not fitted.failed else None
            if not scores:
                return {}
            lacks = self.splits.repeats[repeat][number].lacks
            found.append({scan: {o: v for o, v in organs.items() if o not in lacks} for scan, organs in scores.items()})
        return {scan: organs for scan, organs in by_scan(found).items() if organs}

    def failures(self, name: str) -> list[str]:
        """Return why fits of a configuration failed."""
        return sorted({f.failed for r in self.rounds if name in r.names for f in self.done(r, name) if f.failed})

    def last(self, kind: str) -> Round | None:
        """Return the last round of a kind whose default, or whose only configuration, has all its scores."""
        for r in reversed(self.rounds):
            if r.kind == kind and self.scores(r, DEFAULT_NAME if kind == "halving" else r.names[0]):
                return r
        return None

    def choose(self) -> Choice:
        """Return the choice that the finished rounds support."""
        choice = Choice()
        for r in self.rounds:
            if r.kind == "halving" and (default := self.scores(r, DEFAULT_NAME)):
                for name in r.names:
                    if name != DEFAULT_NAME and (gaps := differences(self.scores(r, name), default)):
                        choice.leads[name] = one_standard_error(gaps)
        r = self.last("halving")
        if r is None:
            choice.why = "no comparison ended"
            return choice
        means = {name: mean_of(scores) for name in r.names if (scores := self.scores(r, name))}
        others = {name: mean for name, mean in means.items() if name != DEFAULT_NAME}
        if not others:
            choice.why = "nothing was compared with it" if len(r.names) < 2 else "no other configuration could be fitted"
        else:
            best = max(others, key=lambda name: others[name])
            lead = choice.leads[best]
            told = f"{best} is {lead.mean:+.3f} Dice from the default on left-out scans, standard error {lead.se:.3f}"
            if lead.leads:
                choice.name, choice.why = best, f"{told}: a lead of one standard error or more"
            else:
                choice.why = f"{told}: no lead of one standard error"
        self._choose_average(choice)
        self._choose_tta(choice, r)
        return choice

    def _choose_average(self, choice: Choice) -> None:
        r = self.last("average")
        if r is None or r.names != [choice.name] or (single := self._single(r)) is None:
            choice.why_averages = "an average of several fits was not compared"
            return
        gaps = differences(self.scores(r, choice.name), self.scores(single, choice.name))
        gain = sum(gaps) / len(gaps) if gaps else 0.0
        choice.averages = gain > 0
        choice.why_averages = f"the average of {r.members} fits is {gain:+.3f} Dice from one fit of the same time"

    def _single(self, r: Round) -> Round | None:
        """Return the round with one fit of the time in which round ``r`` makes an average."""
        return next((e for e in self.rounds if e.index == r.index - 1 and e.kind == "halving"), None)

    def _choose_tta(self, choice: Choice, last: Round) -> None:
        r = (self.last("average") if choice.averages else None) or last
        looks = self.scores(r, choice.name, tta=True) if r.tta else {}
        if not looks:
            choice.why_tta = "test-time augmentation was not measured: it would have taken too much of the time"
            return
        gaps = differences(looks, self.scores(r, choice.name))
        gain = sum(gaps) / len(gaps) if gaps else 0.0
        choice.tta = gain > 0
        choice.why_tta = f"test-time augmentation changes Dice by {gain:+.3f}"

    def expected(self, choice: Choice, num_support: int) -> Expected:
        """Return the Dice to expect of the choice."""
        r = (self.last("average") if choice.averages else None) or self.last("halving")
        if r is None or not (scores := self.scores(r, choice.name, tta=choice.tta)):
            return Expected(words="nothing was left out: the time was not enough to cross-validate")
        train = max(len(fold.train) for folds in self.splits.repeats for fold in folds)
        return expect(scores, train, num_support, self.splits.weak)

    # ---- times

    def step_seconds(self) -> float | None:
        """Return the median seconds of a step of the default in finished fits; None before the first."""
        found = [f.cost.step for r in self.rounds for f in self._all(r, DEFAULT_NAME) if f.cost]
        return median(found) if found else None

    def predict_factor(self) -> float:
        """Return how much longer predictions took than was forecast; 1 before the first."""
        done = [f for r in self.rounds for name in r.names for f in self._all(r, name)]
        found = [f.cost.predict / f.forecast for f in done if f.cost and f.forecast > 0]
        return max(median(found), 0.1) if found else 1.0

    def _all(self, r: Round, name: str) -> list[Fitted]:
        return self.done(r, name) if r.kind != "final" and name in r.names else []

    def own_cost(self, guess: Cost) -> Cost:
        """Return ``guess`` with the seconds of a step that were measured since."""
        step = self.step_seconds()
        return guess if step is None else guess.with_step(step)
