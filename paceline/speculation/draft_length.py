"""How many draft tokens a step should check: goodput = expected tokens / step time (REFERENCES: SmartSpec, TurboSpec).

Two learners feed it: how often tokens of a given confidence were right in this session, and what a step of n rows
costs here. Both are pure: outcomes and durations come in as numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from paceline.speculation.draft_tree import Path

NUM_BUCKETS = 8
DECAY = 0.96
"""Of the evidence, per token judged: a session's nature may change within some 25 tokens."""
PRIOR_WEIGHT = 2.0
"""The drafter's own confidence counts like this many observations."""
DEFAULT_CONFIDENCE = 0.6
"""For drafters that give none."""
PRIOR_ROW_COST = 0.02
"""Before anything was measured, a further row is taken to cost this share of a one-row step."""
SHORTEST_S = 1e-6
"""Steps that the clock can't see, as in virtual time, count as this long: tokens per second stay finite."""


class AcceptanceLearner:
    """Chance that a draft token is right given that those before it were, for one session."""

    def __init__(self) -> None:
        self._hits = [0.0] * NUM_BUCKETS
        self._trials = [0.0] * NUM_BUCKETS

    def chances(self, path: Path) -> list[float]:
        """One per token of ``path``, each given that all before it are right."""
        return [self._chance(index, confidence) for index, confidence in enumerate(path.confidences)]

    def _chance(self, index: int, confidence: float | None) -> float:
        bucket = _bucket(index, confidence)
        prior = DEFAULT_CONFIDENCE if confidence is None else min(max(confidence, 0.02), 0.98)
        return (self._hits[bucket] + PRIOR_WEIGHT * prior) / (self._trials[bucket] + PRIOR_WEIGHT)

    def observe(self, path: Path, accepted: int) -> None:
        """``accepted`` tokens of the checked path were right, the next one (if any) was wrong."""
        for index in range(min(accepted + 1, len(path))):
            bucket = _bucket(index, path.confidences[index])
            self._hits[bucket] = DECAY * self._hits[bucket] + (index < accepted)
            self._trials[bucket] = DECAY * self._trials[bucket] + 1.0

    def relax(self) -> None:
        """A step without drafts: old evidence fades, so that a poor drafter is tried again some day."""
        self._hits = [0.99 * value for value in self._hits]
        self._trials = [0.99 * value for value in self._trials]


def _bucket(index: int, confidence: float | None) -> int:
    if confidence is None:
        return min(index, NUM_BUCKETS - 1)
    return min(int(confidence * NUM_BUCKETS), NUM_BUCKETS - 1)


class StepCost:
    """Seconds of a step by its number of rows, learned while serving.

    Row counts fall into buckets (each of 1–16, then by powers of two); between seen buckets it interpolates, beyond
    them it extends with the prior's shape. Never decreasing in rows.
    """

    def __init__(self) -> None:
        self._seen: dict[int, float] = {}

    def observe(self, rows: int, seconds: float) -> None:
        """A step of ``rows`` rows took this long; slow outliers count little."""
        key, seconds = _size_class(rows), max(seconds, SHORTEST_S)
        old = self._seen.get(key)
        if old is None:
            self._seen[key] = seconds
            return
        weight = 0.2 if seconds < old else 0.1
        self._seen[key] = old + weight * (min(seconds, 2 * old) - old)

    def seconds(self, rows: int) -> float:
        """Expected time of a step of ``rows`` rows; in units of a one-row step while nothing was seen."""
        if not self._seen:
            return _prior(rows)
        known = sorted(self._seen)
        below = [size for size in known if size <= rows]
        above = [size for size in known if size > rows]
        low = max((self._seen[size] for size in below), default=0.0)
        if below and above:
            high = max(low, self._seen[above[0]])
            return low + (high - low) * (rows - below[-1]) / (above[0] - below[-1])
        anchor = below[-1] if below else above[0]
        return max(low, self._seen[anchor] * _prior(rows) / _prior(anchor))


def _prior(rows: int) -> float:
    return 1.0 + PRIOR_ROW_COST * rows


def _size_class(rows: int) -> int:
    return rows if rows <= 16 else 1 << (rows - 1).bit_length()


def choose_lengths(chances: Sequence[Sequence[float]], base_rows: int, budget: int, cost: StepCost) -> list[int]:
    """Draft tokens to check per session so that expected tokens / step time is largest.

    ``chances[i]`` are session i's conditional acceptance chances. Tokens are taken in the order of their chance to be
    committed, which never takes a token before its parent; the best prefix of that order wins.
    """
    candidates = sorted(
        ((reach, session) for session, ps in enumerate(chances) for reach in _cumulative(ps)), reverse=True
    )
    expected = float(len(chances))
    best, best_taken = expected / cost.seconds(base_rows), 0
    for taken, (reach, _) in enumerate(candidates[:budget], start=1):
        expected += reach
        goodput = expected / cost.seconds(base_rows + taken)
        if goodput >= best:
            best, best_taken = goodput, taken
    lengths = [0] * len(chances)
    for _, session in candidates[:best_taken]:
        lengths[session] += 1
    return lengths


def lengthen(lengths: Sequence[int], least: Sequence[int], budget: int) -> list[int]:
    """``lengths`` raised to ``least`` as far as ``budget`` tokens in all allow; the first sessions come first."""
    spare, out = budget - sum(lengths), []
    for length, wanted in zip(lengths, least, strict=True):
        more = max(0, min(wanted - length, spare))
        out.append(length + more)
        spare -= more
    return out


def _cumulative(chances: Sequence[float]) -> list[float]:
    reach, out = 1.0, []
    for chance in chances:
        reach *= chance
        out.append(reach)
    return out
