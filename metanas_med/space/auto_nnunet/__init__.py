"""Auto-nnU-Net's structure: its NAS space, and the grammar of its hierarchical space. All rows are sampled.

Facts: Auto-nnU-Net (Becktepe et al. 2025, arXiv 2505.16561), its code ``automl/AutoNNUnet``, and nnU-Net's plans. Written from these; no
code was copied. Every network has leading parts of the supernet's tensors (narrow.py): the convolutions of the plain encoder are the
first ones of the residual encoder, which has projections in addition; widths are leading channels, fewer blocks the first ones.
Activations and dropout have no weights, except for the slope of PReLU, which the supernet keeps. Batch norm (``norms: [instance, batch]``)
is for counts and for training code of your own: it needs the native form, refuses batches of one sample, and meta-training refuses it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch

from ..base import Picks, Row
from ..registry import register_space
from .body import StructureBody
from .plan import Held, Plan, grammar_plan, grammar_rows, held_by, nas_plan, nas_rows
from .settings import AutoNNUNetGrammarSettings, AutoNNUNetSettings, StructureSettings

_SOURCE = "Becktepe et al. 2025, arXiv 2505.16561; Isensee et al. 2021 and 2024 (nnU-Net, ResEnc)"
_REFUSES = "a search by gradients: every row is sampled"


def _largest(rows: Mapping[str, Row], plan_of: object) -> Held:
    """Return what a supernet keeps: the tensors of its first options, and of every change of one row."""
    changes = [{}, *({name: option} for name, row in rows.items() for option in range(1, len(row.options)))]
    return held_by(tuple(plan_of(change) for change in changes))  # type: ignore[operator]


class _Structure(ABC):
    """What both spaces share: sampled rows, and networks that are leading parts of one supernet."""

    settings: StructureSettings
    _rows: Mapping[str, Row]

    def rows(self) -> Mapping[str, Row]:
        """Return every decision by name; the first option of each is the supernet's own, sizes from large to small."""
        return self._rows

    @abstractmethod
    def plan(self, picks: Picks) -> Plan:
        """Return the network of ``picks``; rows that are missing take their first option."""

    @abstractmethod
    def canonical(self, picks: Picks) -> dict[str, int]:
        """Return the picks that decide something."""

    def build(self, picks: Picks | None, generator: torch.Generator | None = None) -> StructureBody:
        """Return the supernet, or the network of ``picks``, whose tensors are leading parts of the supernet's."""
        if picks is None:
            return StructureBody(self, self.plan({}), None, _largest(self._rows, self.plan), generator)
        return StructureBody(self, self.plan(picks), self.canonical(picks), None, generator)

    def reason_against_training(self) -> str:
        """Return why meta-training and ``adapt`` refuse the space; empty if they take it."""
        if "batch" not in self.settings.norms:
            return ""
        return (
            "batch norm keeps statistics of the patients it was trained on, which meta-training and adapt do not carry from task to"
            " task. Set space.norms to [instance]"
        )


@register_space("auto_nnunet", settings=AutoNNUNetSettings, source=_SOURCE, refuses=_REFUSES)
class AutoNNUNet(_Structure):
    """nnU-Net's structure, sampled: encoder, scale of blocks, width, cap, activation, norm, dropout."""

    settings: AutoNNUNetSettings

    def __init__(self, settings: AutoNNUNetSettings) -> None:
        self.settings = settings
        self._rows = nas_rows(settings)  # type: ignore[arg-type]  # frozen settings have a hash

    def sizes(self) -> frozenset[str]:
        """Return the sampled rows whose options are sizes, the largest first."""
        return frozenset(("encoder", "scale", "width", "cap"))

    def plan(self, picks: Picks) -> Plan:
        """Return the network of ``picks``; rows that are missing take their first option."""
        return nas_plan(self.settings, self._rows, picks)

    def canonical(self, picks: Picks) -> dict[str, int]:
        """Return the picks that decide something; of options that build one network, the first."""
        found = {name: picks.get(name, 0) for name in self._rows}
        for name, attribute in (("cap", "widths"), ("scale", None)):
            if name not in found:
                continue
            plans = [self.plan({**found, name: option}) for option in range(len(self._rows[name].options))]
            values = [getattr(plan, attribute) if attribute else plan for plan in plans]
            if all(value == values[0] for value in values):
                del found[name]
            else:
                found[name] = values.index(values[found[name]])
        return found

    def part(self, chosen: Mapping[str, str]) -> AutoNNUNetSettings:
        """Return the settings of the supernet that the options ``chosen`` of sampled rows leave: smaller ones are shares of them."""
        s, update = self.settings, dict[str, object]()
        if "encoder" in chosen:
            update["encoders"] = s.encoders[s.encoders.index(chosen["encoder"]) :]  # type: ignore[arg-type]
        if "scale" in chosen:
            update["scales"] = tuple(value for value in s.scales if value <= float(chosen["scale"]))
        for name, key in (("width", "base_width"), ("cap", "max_width")):
            if name in chosen:
                update[key] = int(chosen[name])
        if "activation" in chosen:
            update["activations"] = (chosen["activation"],)
        if "norm" in chosen:
            update["norms"] = (chosen["norm"],)
        if "dropout" in chosen:
            update["dropouts"] = (float(chosen["dropout"]),)
        return s.model_copy(update=update)

    def published(self) -> Mapping[str, Mapping[str, str]]:
        """Return nnU-Net's plain U-Net and ResEncM: row -> option.

        They are the published ones with ``form: native, levels: 6, base_width: 64, max_width: 640`` (then 32 to 320 channels); with
        other widths, those of half the width on offer.
        """
        wanted = {
            "scale": "1",
            "width": f"{self._nearest('width', self.settings.base_width / 2)}",
            "cap": f"{self._nearest('cap', self.settings.max_width / 2)}",
            "activation": "leaky_relu",
            "norm": "instance",
            "dropout": "0",
        }
        found = {}
        for name, encoder in (("nnunet_plain", "plain"), ("resenc_m", "residual")):
            every = {"encoder": encoder, **wanted}
            if all(option in self._rows[row].options for row, option in every.items() if row in self._rows):
                found[name] = {row: option for row, option in every.items() if row in self._rows}
        return found

    def _nearest(self, row: str, value: float) -> str:
        options = self._rows[row].options if row in self._rows else ("0",)
        return min(options, key=lambda option: abs(int(option) - value))


@register_space("auto_nnunet_grammar", settings=AutoNNUNetGrammarSettings, source=_SOURCE, refuses=_REFUSES)
class AutoNNUNetGrammar(_Structure):
    """The words of Auto-nnU-Net's grammar, sampled: stages, blocks of each, and encoder, norm, activation, dropout of each side.

    Numbers of blocks have one row for each kind of encoder, because the two offer different numbers: every choice is a word.
    """

    settings: AutoNNUNetGrammarSettings

    def __init__(self, settings: AutoNNUNetGrammarSettings) -> None:
        self.settings = settings
        self._rows = grammar_rows(settings)  # type: ignore[arg-type]  # frozen settings have a hash

    def sizes(self) -> frozenset[str]:
        """Return the sampled rows whose options are sizes, the largest first."""
        return frozenset(name for name in self._rows if name in ("stages", "encoder") or "/blocks" in name)

    def plan(self, picks: Picks) -> Plan:
        """Return the network of ``picks``; rows that are missing take their first option."""
        return grammar_plan(self.settings, self._rows, picks)

    def canonical(self, picks: Picks) -> dict[str, int]:
        """Return the picks that decide something: no blocks of the other encoder, or of stages that are not there."""
        found = {name: picks.get(name, 0) for name in self._rows}
        plan = self.plan(picks)
        levels, other = plan.levels, "plain" if plan.residual else "residual"
        gone = {f"{other}/blocks{level}" for level in range(self.settings.levels)}
        gone |= {f"{kind}/blocks{level}" for kind in ("plain", "residual") for level in range(levels, self.settings.levels)}
        gone |= {f"decoder/blocks{level}" for level in range(levels - 1, self.settings.levels)}
        return {name: option for name, option in found.items() if name not in gone}

    def part(self, chosen: Mapping[str, str]) -> AutoNNUNetGrammarSettings:
        """Return the settings of the supernet that the options ``chosen`` of sampled rows leave: those rows are fixed."""
        return self.settings.model_copy(update={"fixed": (*self.settings.fixed, *chosen.items())})

    def published(self) -> Mapping[str, Mapping[str, str]]:
        """Return nnU-Net's plain U-Net and ResEncM as words of the grammar, for ``form: native, base_width: 32, max_width: 320``."""
        levels, s = range(self.settings.levels), self.settings
        sides = {
            f"{side}/{name}": option
            for side in ("encoder", "decoder")
            for name, option in (("norm", "instance"), ("activation", "leaky_relu"), ("dropout", "none"))
        }
        plain = {**{f"plain/blocks{k}": "2" for k in levels}, **{f"decoder/blocks{k}": "2" for k in levels[:-1]}}
        residual = {f"residual/blocks{k}": str(s.residual_at(k)) for k in levels}
        residual |= {f"decoder/blocks{k}": "1" for k in levels[:-1]}
        found = {"nnunet_plain": {"encoder": "plain", **plain}, "resenc_m": {"encoder": "residual", **residual}}
        whole = {"stages": str(s.levels), **sides}
        return {
            name: {row: option for row, option in {**whole, **own}.items() if row in self._rows} for name, own in found.items()
        }
