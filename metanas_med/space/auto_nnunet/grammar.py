"""The grammar of Auto-nnU-Net's hierarchical space, and the number of its words."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from .settings import DECODER_CONVS, PLAIN_CONVS, AutoNNUNetGrammarSettings

#: symbol -> its productions, each a sequence of symbols; what is no key is a terminal
Grammar = Mapping[str, tuple[tuple[str, ...], ...]]


def grammar_of(s: AutoNNUNetGrammarSettings) -> Grammar:
    """Return the rules. Facts: ``autonnunet/hnas/architecture.py`` of AutoNNUnet; residual decoders are never produced there."""
    rules: dict[str, tuple[tuple[str, ...], ...]] = {}
    fewest = min(s.levels, max(2, s.levels // 2))
    rules["S"] = tuple(("unet", f"{k}E", f"{k}D") for k in range(fewest, s.levels + 1))
    for letter in "ED":
        rules[f"{letter}NORM"] = tuple((name,) for name in s.norms)
        rules[f"{letter}NONLIN"] = tuple((name,) for name in s.activations)
        rules[f"{letter}DROPOUT"] = (("dropout",), ("no_dropout",))
    for stage in range(s.levels):
        for letter, most in (("C", PLAIN_CONVS), ("R", s.residual_at(stage)), ("D", DECODER_CONVS)):
            rules[f"{stage}{letter}B"] = tuple((f"{count}b",) for count in range(1, s.s_max * most + 1))
    for k in range(fewest, s.levels + 1):
        encoders = []
        for kind, letter in (("conv_encoder", "C"), ("res_encoder", "R")):
            blocks = [symbol for stage in range(k) for symbol in ("down", f"{stage}{letter}B")][1:]
            encoders.append((kind, "ENORM", "ENONLIN", "EDROPOUT", *blocks))
        rules[f"{k}E"] = tuple(encoders)
        ups = [symbol for stage in range(k - 1) for symbol in ("up", f"{stage}DB")]
        rules[f"{k}D"] = (("conv_decoder", "DNORM", "DNONLIN", "DDROPOUT", *ups),)
    return rules


def count_words(rules: Grammar, start: str = "S") -> int:
    """Return how many derivations ``start`` has: the sum over its productions of the product over their symbols."""

    @cache
    def words(symbol: str) -> int:
        total = 0
        for production in rules.get(symbol, ()):
            product = 1
            for part in production:
                product *= words(part)
            total += product
        return total if symbol in rules else 1

    return words(start)
