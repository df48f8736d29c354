"""What a network of the two spaces is, as plain data: from settings and picks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from ...errors import ConfigError, suggest
from ..base import Picks, Row
from .settings import (
    DECODER_CONVS,
    PLAIN_CONVS,
    RESIDUAL_DECODER_CONVS,
    AutoNNUNetGrammarSettings,
    AutoNNUNetSettings,
)


@dataclass(frozen=True)
class Side:
    """What all convolutions of the encoder, or of the decoder, have in common."""

    activation: str
    norm: str
    dropout: float


@dataclass(frozen=True)
class Plan:
    """One network. ``encoder``: convolutions (plain) or blocks of two (residual) by stage; ``decoder``: convolutions by stage."""

    widths: tuple[int, ...]
    residual: bool
    encoder: tuple[int, ...]
    decoder: tuple[int, ...]  #: of stages 0 to L - 2
    sides: tuple[Side, Side]  #: of encoder and decoder

    @property
    def levels(self) -> int:
        return len(self.widths)

    def projects(self, level: int) -> bool:
        """Return whether the first residual block of a stage changes the number of channels."""
        return self.residual and 0 < level < self.levels and self.widths[level] != self.widths[level - 1]

    @property
    def convs(self) -> tuple[int, ...]:
        """Convolutions of the encoder by stage."""
        return tuple(2 * count if self.residual else count for count in self.encoder)


@dataclass(frozen=True)
class Held:
    """The tensors that a body keeps: those of one network, or of every network of the space (a supernet)."""

    widths: tuple[int, ...]
    encoder: tuple[int, ...]  #: convolutions by stage
    decoder: tuple[int, ...]
    skips: tuple[bool, ...]  #: projections of residual blocks, by stage
    residual: bool
    slopes: tuple[bool, bool]  #: of PReLU, by side
    statistics: tuple[bool, bool]  #: of batch norm, by side


def held_by(plans: tuple[Plan, ...]) -> Held:
    """Return what a body keeps that can be each of ``plans``; the first is the widest and deepest."""
    first = plans[0]
    levels = range(first.levels)
    return Held(
        first.widths,
        tuple(max(plan.convs[level] for plan in plans if level < plan.levels) for level in levels),
        tuple(max(plan.decoder[level] for plan in plans if level < plan.levels - 1) for level in levels[:-1]),
        tuple(any(plan.projects(level) for plan in plans) for level in levels),
        any(plan.residual for plan in plans),
        tuple(any(plan.sides[side].activation == "prelu" for plan in plans) for side in (0, 1)),  # type: ignore[arg-type]
        tuple(any(plan.sides[side].norm == "batch" for plan in plans) for side in (0, 1)),  # type: ignore[arg-type]
    )


def numbers(values: tuple[float, ...]) -> tuple[str, ...]:
    """Return names of numbers as options."""
    return tuple(f"{value:g}" for value in values)


@lru_cache(maxsize=64)
def nas_rows(s: AutoNNUNetSettings) -> dict[str, Row]:
    """Return the decisions of the NAS space; those with one option are left out."""
    widths = dict.fromkeys(max(1, round(share * s.base_width)) for share in s.shares)
    caps = dict.fromkeys(cap for share in s.shares if (cap := round(share * s.max_width)) >= min(s.base_width, s.max_width))
    rows = {
        "encoder": tuple(s.encoders),
        "scale": numbers(s.scales),
        "width": numbers(tuple(widths)),
        "cap": numbers(tuple(caps)),
        "activation": tuple(s.activations),
        "norm": s.norms,
        "dropout": numbers(s.dropouts),
    }
    return {name: Row(options, "sampled") for name, options in rows.items() if len(options) > 1}


def nas_plan(s: AutoNNUNetSettings, rows: Mapping[str, Row], picks: Picks) -> Plan:
    """Return the network of ``picks``; rows that are missing take their first option."""
    at = {name: row.options[picks.get(name, 0)] for name, row in rows.items()}
    width, cap = int(at.get("width", s.base_width)), int(at.get("cap", s.max_width))
    scale, residual = float(at.get("scale", s.scales[0])), at.get("encoder", s.encoders[0]) == "residual"

    def scaled(count: int) -> int:
        return max(1, round(scale * count))

    side = Side(
        at.get("activation", s.activations[0]),
        at.get("norm", s.norms[0]),
        float(at.get("dropout", s.dropouts[0])),
    )
    return Plan(
        tuple(min(width * 2**level, cap) for level in range(s.levels)),
        residual,
        tuple(scaled(s.residual_at(level) if residual else PLAIN_CONVS) for level in range(s.levels)),
        (scaled(RESIDUAL_DECODER_CONVS if residual else DECODER_CONVS),) * (s.levels - 1),
        (side, side),
    )


@lru_cache(maxsize=64)
def grammar_rows(s: AutoNNUNetGrammarSettings) -> dict[str, Row]:
    """Return the decisions of the grammar: one row a rule with more than one production."""

    def down_from(count: int) -> tuple[str, ...]:
        return tuple(str(n) for n in range(count, 0, -1))

    fewest = min(s.levels, max(2, s.levels // 2))
    rows = {"stages": tuple(str(n) for n in range(s.levels, fewest - 1, -1)), "encoder": ("residual", "plain")}
    for side in ("encoder", "decoder"):
        rows[f"{side}/norm"] = s.norms
        rows[f"{side}/activation"] = tuple(s.activations)
        rows[f"{side}/dropout"] = ("none", "dropout")
    for level in range(s.levels):
        rows[f"residual/blocks{level}"] = down_from(s.s_max * s.residual_at(level))
        rows[f"plain/blocks{level}"] = down_from(s.s_max * PLAIN_CONVS)
        if level < s.levels - 1:
            rows[f"decoder/blocks{level}"] = down_from(s.s_max * DECODER_CONVS)
    fixed = dict(s.fixed)
    for name, option in fixed.items():
        if option not in rows.get(name, ()):
            offered = f"expected one of {list(rows[name])}" if name in rows else suggest(name, rows)
            raise ConfigError(f"space.fixed: {name} = {option} is no choice of the grammar; {offered}")
    return {name: Row(options, "sampled") for name, options in rows.items() if len(options) > 1 and name not in fixed}


def grammar_plan(s: AutoNNUNetGrammarSettings, rows: Mapping[str, Row], picks: Picks) -> Plan:
    """Return the network of ``picks``; rows that are missing take their first option."""
    at = {**{name: row.options[picks.get(name, 0)] for name, row in rows.items()}, **dict(s.fixed)}
    levels, kind = int(at.get("stages", s.levels)), at["encoder"]

    def side(name: str) -> Side:
        dropout = s.dropout if at[f"{name}/dropout"] == "dropout" else 0.0
        activation = at.get(f"{name}/activation", s.activations[0])
        return Side(activation, at.get(f"{name}/norm", s.norms[0]), dropout)

    return Plan(
        s.stage_widths[:levels],
        kind == "residual",
        tuple(int(at.get(f"{kind}/blocks{level}", 1)) for level in range(levels)),
        tuple(int(at[f"decoder/blocks{level}"]) for level in range(levels - 1)),
        (side("encoder"), side("decoder")),
    )
