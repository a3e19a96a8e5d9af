"""Second choices that a step checks beside the path: how often they are right, and which are worth a row. Pure.

Where a step ends with a wrong draft, another guess for that place may have been the right one: a row for it makes the
step commit it and the token after it. It brings a token with chance reach * (1 - p) * r: that all drafts before the
place are right, that the one there is wrong, and that the second choice is right then. The last is learned from every
wrong draft that had second choices, whether these were checked or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paceline.core.types import Alternative
from paceline.speculation.draft_length import Cost
from paceline.speculation.draft_tree import MAX_OTHERS, Other, Path
from paceline.speculation.odds import Shift

DEFAULT_CHANCE = 0.2
"""For drafters that give no confidence."""
LEAST, MOST = 0.02, 0.9
"""No second choice is held for impossible or certain."""
DECAY = 0.97
"""Of the evidence, per wrong draft with second choices."""
WEIGHT = 4.0
"""What drafters say counts like this many wrong drafts."""


class AlternativeLearner:
    """Chance that a second choice is right where the path turns out to be wrong, for one session.

    What the drafter says about both is the base; how far it is off is learned by rank: the surest, the next, ...
    """

    def __init__(self) -> None:
        self._ranks = [Shift(DECAY, WEIGHT) for _ in range(MAX_OTHERS)]

    def chances(self, path: Path) -> list[float]:
        """One per ``path.others``."""
        return [self._ranks[rank].apply(_claimed(path, other)) for rank, other in _ranked(path)]

    def observe(self, path: Path, index: int, token: int) -> None:
        """The draft at ``index`` was wrong, all before it were right, and this is the target's token there."""
        for rank, other in _ranked(path):
            if other.index == index:
                self._ranks[rank].add(other.token == token, _claimed(path, other))


def _ranked(path: Path) -> list[tuple[int, Other]]:
    out: list[tuple[int, Other]] = []
    for other in path.others:
        rank = out[-1][0] + 1 if out and out[-1][1].index == other.index else 0
        out.append((rank, other))
    return out


def _claimed(path: Path, other: Other) -> float:
    """What the drafter's confidences say about it where the path is wrong."""
    first = path.confidences[other.index]
    if first is None or other.confidence is None:
        return DEFAULT_CHANCE
    return min(max(other.confidence / max(1.0 - first, 1e-3), LEAST), MOST)


@dataclass(frozen=True, slots=True)
class Share:
    """What a session could have checked in a step."""

    path: Path
    chances: Sequence[float]
    """Of the path's tokens, each given those before it."""
    seconds: Sequence[float]
    """Of ``path.others``, where the path is wrong."""
    length: int
    """Tokens of the path that the step checks."""
    room: int
    """Alternatives at most."""

    def worth(self) -> list[tuple[float, Other]]:
        """Tokens that each alternative would bring, the best ones first."""
        reach, found = self._reach(), []
        for other, second in zip(self.path.others, self.seconds, strict=True):
            if other.index < self.length:
                found.append((reach[other.index] * (1.0 - self.chances[other.index]) * second, other))
        return sorted(found, key=lambda one: one[0], reverse=True)[: max(0, self.room)]

    def expected(self) -> float:
        """Tokens of a step without alternatives."""
        return sum(self._reach()[: self.length + 1])

    def _reach(self) -> list[float]:
        """Chance that so many tokens of the path are right."""
        out = [1.0]
        for chance in self.chances:
            out.append(out[-1] * chance)
        return out


def choose_alternatives(shares: Sequence[Share], rows: int, budget: int, cost: Cost) -> list[tuple[Alternative, ...]]:
    """Per session those that raise tokens per second in a step that has ``rows`` already; ``budget`` in all."""
    candidates = sorted(
        ((worth, number, other) for number, share in enumerate(shares) for worth, other in share.worth()),
        key=lambda one: one[0],
        reverse=True,
    )
    expected = sum(share.expected() for share in shares)
    best, best_taken = expected / cost.seconds(rows), 0
    for taken, (worth, _, _) in enumerate(candidates[:budget], start=1):
        expected += worth
        goodput = expected / cost.seconds(rows + taken)
        if goodput > best:
            best, best_taken = goodput, taken
    chosen: list[list[Alternative]] = [[] for _ in shares]
    for _, number, other in candidates[:best_taken]:
        chosen[number].append(Alternative(other.index, other.token))
    return [tuple(one) for one in chosen]
