"""The order of a search: rounds of fits on folds, then averages of the chosen configuration, then its final fits.

Each round is laid out when the one before it is complete, for the time that is then left. A launcher runs the fits, and ``then``
gives it the next round. All that is decided is in the store, so a stopped search goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .budget import Budget, Cost
from .fits import Fit
from .folds import Splits
from .halving import Layout, rounds_seconds, survivors
from .portfolio import Candidate
from .results import DEFAULT_NAME, Results, Round
from .settings import MinutesSettings
from .store import Store

#: predictions with test-time augmentation take this many times as long as without, together with those without
_LOOKS = 6


class Search:
    """Which fits come next. ``cost`` is that of the default on all threads, ``reserve`` the seconds to keep for the end."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        splits: Splits,
        layout: Layout,
        cost: Cost,
        budget: Budget,
        store: Store,
        settings: MinutesSettings,
        *,
        seed: int = 0,
        reserve: float = 0.0,
        header: Mapping[str, Any] | None = None,
    ) -> None:
        self.candidates = {c.configuration.name: c for c in candidates}
        self.results = Results(store, splits, list(self.candidates))
        self.splits, self.layout, self.budget, self.store, self.settings = splits, layout, budget, store, settings
        self.seed, self.reserve = seed, reserve
        self.header = dict(header or {})  #: what the store keeps in addition
        self.end = budget.spent + layout.seconds  #: of all comparisons, in spent seconds
        self.on_round: Callable[[Round], None] = lambda r: None
        self._guess = cost.scaled(layout.workers)

    @property
    def rounds(self) -> list[Round]:
        return self.results.rounds

    def begin(self) -> list[Fit]:
        """Return the fits to start with; none where nothing is compared."""
        if self.rounds:  # resumed
            return self._pending(self.rounds[-1]) or self._next()
        return self._open(self._first()) if self.layout.sizes else []

    def then(self, done: Fit) -> list[Fit]:
        """Return the fits that follow a finished one: the next round, once its own is complete."""
        self.store.keep_only(self._kept())
        self.save()
        return [] if self._pending(self.rounds[-1]) else self._next()

    def save(self) -> None:
        """Keep what was decided, and the seconds that were spent."""
        rounds = [r.to_json() for r in self.rounds]
        self.store.write({**self.header, "rounds": rounds, "spent": self.budget.spent, "end": self.end})

    def restore(self, tree: Mapping[str, Any]) -> None:
        """Go on from what ``save`` kept."""
        self.rounds.extend(Round(**row) for row in tree["rounds"])
        if self.rounds:
            self.end = float(tree["end"])

    def best_key(self) -> str:
        """Return the fit with the best model so far, of the latest round; "" before the first is finished."""
        for r in reversed(self.rounds):
            if r.kind != "final" and (key := self.store.best([fit.key for fit in self.fits(r)])):
                return key
        return ""

    def final_fits(self) -> list[Fit]:
        """Return the fits of the final average; empty where one fit follows."""
        return [fit for r in self.rounds if r.kind == "final" for fit in self.fits(r)]

    def _kept(self) -> list[str]:
        return [key for key in (self.best_key(), *(fit.key for fit in self.final_fits())) if key]

    def _pending(self, r: Round) -> list[Fit]:
        return [fit for fit in self.fits(r) if self.store.get(fit.key) is None]

    def _open(self, r: Round | None) -> list[Fit]:
        if r is None:
            return []
        self.rounds.append(r)
        self.save()
        self.on_round(r)
        return self._pending(r) or self._next()

    def _next(self) -> list[Fit]:
        """Return the fits of the round after the last one, which is complete."""
        last = self.rounds[-1]
        if last.kind == "halving":
            return self._open(self._halve(last) or self._average(last) or self._members())
        return self._open(self._members()) if last.kind == "average" else []

    def _first(self) -> Round:
        size = self.layout.sizes[0]
        seconds = self._fit_seconds(rounds_seconds(self.layout), size)
        names = list(self.candidates)[:size]
        # slower steps leave a candidate fewer of them: too few are no test of it
        fast = [n for n in names if n == DEFAULT_NAME or self._shortest(self.candidates[n].seconds) <= seconds]
        return self._round(fast, seconds, last=len(self.layout.sizes) == 1)

    def _halve(self, last: Round) -> Round | None:
        """Return the next round of halving; None after the last one, or where the time is over."""
        number = sum(r.kind == "halving" for r in self.rounds)
        if number >= len(self.layout.sizes):
            return None
        scores = {name: found for name in last.names if (found := self.results.scores(last, name))}
        names = survivors(scores, DEFAULT_NAME, self.layout.sizes[number]) if DEFAULT_NAME in scores else []
        rounds_left = len(self.layout.sizes) - number + (1 / self.layout.sizes[-1] if self.layout.averages else 0)
        seconds = self._fit_seconds((self.end - self.budget.spent) / rounds_left, max(len(names), 1))
        if len(names) < 2 or seconds < self._shortest():
            return None
        return self._round(names, seconds, last=number + 1 == len(self.layout.sizes))

    def _round(self, names: list[str], seconds: float, last: bool) -> Round:
        s, repeats, tta = self.settings, 1, False
        cost, left = self.own_cost(), self._num_left()
        if last:
            steps = cost.steps_in(seconds, math.ceil(left))
            repeats = max(1, min(len(self.splits.repeats), s.max_repeats, steps // s.repeat_steps))
            looks = _LOOKS * cost.predict * left * self.results.predict_factor()
            tta = looks <= s.tta_share * seconds / repeats
        return Round(len(self.rounds), "halving", names, seconds / repeats, repeats, tta=tta)

    def _average(self, last: Round) -> Round | None:
        """Return the round that compares an average of several fits with one fit of the same time; None where time is short."""
        name, members = self.results.choose().name, self.settings.members
        if not self.layout.averages or not self.results.scores(last, name) or last.seconds / members < self._shortest():
            return None
        needed = last.seconds * math.ceil(last.repeats * len(self.splits.repeats[0]) / self.layout.workers)
        if needed > 1.5 * max(self.end - self.budget.spent, 0.0):
            return None
        return Round(len(self.rounds), "average", [name], last.seconds, last.repeats, members, last.tta)

    def _members(self) -> Round | None:
        """Return the final fits of an average, one a worker; None where one fit follows, or one worker makes them all."""
        choice = self.results.choose()
        if self.layout.workers < 2 or not choice.averages:
            return None
        waves = math.ceil(self.settings.members / self.layout.workers)
        seconds = (self.budget.left - self.reserve - self._guess.plan) / waves
        return Round(len(self.rounds), "final", [choice.name], seconds, members=self.settings.members)

    def fits(self, r: Round) -> list[Fit]:
        """Return the fits of a round, those on one fold together."""
        cost, factor = self.own_cost(), self.results.predict_factor()
        threads = 1 if self.layout.workers > 1 else 0
        found = []
        for repeat, number in self.results.places(r) if r.kind != "final" else ():
            fold = self.splits.repeats[repeat][number]
            for name in r.names:
                candidate = self.candidates[name]
                found.append(
                    Fit(
                        self.results.key(r, name, repeat, number),
                        candidate.configuration,
                        fold.train,
                        fold.left,
                        self.seed + 100 * repeat + number,
                        r.seconds,
                        r.members,
                        r.tta,
                        fold.copies,
                        threads,
                        cost.step * candidate.seconds,
                        predict=factor,
                        latest=self._latest(r.seconds),
                    )
                )
        for number in range(r.members) if r.kind == "final" else ():
            candidate, seed = self.candidates[r.names[0]], self.seed + 1000 * number
            key = self.results.key(r, r.names[0], 0, number)
            guess = cost.step * candidate.seconds
            found.append(Fit(key, candidate.configuration, self.every, (), seed, r.seconds, threads=threads, guess=guess))
        return found

    @property
    def every(self) -> tuple[str, ...]:
        """The names of all support scans."""
        return tuple(sorted({name for fold in self.splits.repeats[0] for name in (*fold.train, *fold.left)}))

    def _latest(self, seconds: float) -> float:
        """Return the last moment on the clock at which a fit of ``seconds`` may start: half of the final time stays."""
        return self.budget.end - 0.5 * (self.budget.seconds - self.end) - seconds

    def _fit_seconds(self, seconds: float, size: int) -> float:
        return self.layout.fit_seconds(seconds, size * len(self.splits.repeats[0]))

    def own_cost(self) -> Cost:
        """Return the cost of a fit of the default by one worker: measured steps replace the first guess."""
        return self.results.own_cost(self._guess)

    def _shortest(self, relative: float = 1.0) -> float:
        """Return the seconds of the shortest useful fit of a configuration by its relative seconds a step."""
        cost, left = self.own_cost(), self._num_left()
        rest = cost.plan + cost.head + left * cost.predict * self.results.predict_factor()
        return rest + self.settings.least_fit_steps * cost.step * relative

    def _num_left(self) -> float:
        """Return the mean number of scans that a fold predicts."""
        return scans_left(self.splits)


def scans_left(splits: Splits) -> float:
    """Return the mean number of scans that a fold predicts."""
    folds = [fold for folds in splits.repeats for fold in folds]
    counts = [len(f.train) * len(f.copies.left) if f.copies else len(f.left) for f in folds]
    return sum(counts) / len(counts) if counts else 0.0
