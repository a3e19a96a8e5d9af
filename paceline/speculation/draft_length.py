"""How many draft tokens a step should check: goodput = expected tokens / step time (REFERENCES: SmartSpec, TurboSpec).

Two learners feed it: how often tokens of a given confidence were right in this session, and what a step of n rows
costs here. Both are pure: outcomes and durations come in as numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from paceline.core.types import Profile
from paceline.speculation.draft_tree import Path
from paceline.speculation.odds import Shift
from paceline.speculation.profiles import PRIORS, Prior

NUM_BUCKETS = 8
DECAY = 0.97
"""Of the evidence, per token judged: a session's nature may change within some 30 tokens."""
PRIOR_WEIGHT = 1.5
"""What is expected at first counts like this many observations."""
PLACE_WEIGHT = 3.0
"""That a place in the draft is like all others counts like this many."""
NUM_PLACES = 6
"""Places 0, 1, 2-3, 4-7, 8-15 and all behind: drafts often get worse with their length."""
DEFAULT_CONFIDENCE = 0.75
"""For drafters that give none."""
LEAST, MOST = 0.02, 0.98
"""Nothing is held for impossible or certain."""
PRIOR_ROW_COST = 0.02
"""Before anything was measured, a further row is taken to cost this share of a one-row step."""
SHORTEST_S = 1e-6
"""Steps that the clock can't see, as in virtual time, count as this long: tokens per second stay finite."""


class AcceptanceLearner:
    """Chance that a draft token is right given that those before it were, for one session.

    A rate per confidence, for all places together, and per place how far it differs from that: tokens at the end of a
    draft are judged too seldom to be learned by themselves.
    """

    def __init__(self, prior: Prior = PRIORS[Profile.AUTO]) -> None:
        self._prior = prior
        self._hits = [0.0] * (NUM_BUCKETS + 1)
        self._trials = [0.0] * (NUM_BUCKETS + 1)
        self._places = [Shift(DECAY, PLACE_WEIGHT) for _ in range(NUM_PLACES)]

    def chances(self, path: Path) -> list[float]:
        """One per token of ``path``, each given that all before it are right."""
        return [
            _bounded(self._places[_place(index)].apply(self._rate(index, confidence)))
            for index, confidence in enumerate(path.confidences)
        ]

    def _rate(self, index: int, confidence: float | None) -> float:
        """Wherever such a confidence was given."""
        bucket = _bucket(confidence)
        prior = _bounded(self._prior.expect(index, confidence, DEFAULT_CONFIDENCE))
        return (self._hits[bucket] + PRIOR_WEIGHT * prior) / (self._trials[bucket] + PRIOR_WEIGHT)

    def observe(self, path: Path, accepted: int) -> None:
        """``accepted`` tokens of the checked path were right, the next one (if any) was wrong."""
        for index in range(min(accepted + 1, len(path))):
            confidence, is_right = path.confidences[index], index < accepted
            bucket = _bucket(confidence)
            self._places[_place(index)].add(is_right, self._rate(index, confidence))
            self._hits[bucket] = DECAY * self._hits[bucket] + is_right
            self._trials[bucket] = DECAY * self._trials[bucket] + 1.0

    def relax(self) -> None:
        """A step without drafts: old evidence fades, so that a poor drafter is tried again some day."""
        self._hits = [0.99 * value for value in self._hits]
        self._trials = [0.99 * value for value in self._trials]
        for place in self._places:
            place.fade(0.99)


def _bounded(chance: float) -> float:
    return min(max(chance, LEAST), MOST)


def _bucket(confidence: float | None) -> int:
    """Tokens without a confidence have one of their own."""
    return NUM_BUCKETS if confidence is None else min(int(confidence * NUM_BUCKETS), NUM_BUCKETS - 1)


def _place(index: int) -> int:
    return min(index.bit_length(), NUM_PLACES - 1)


class StepCost:
    """Seconds of a step by its number of rows, learned while serving.

    Row counts fall into buckets (each of 1–16, then by powers of two); between seen buckets it interpolates, beyond
    them it extends with the prior's shape. Never decreasing in rows.
    """

    def __init__(self, row_cost: float = PRIOR_ROW_COST) -> None:
        self._row_cost = row_cost
        self._seen: dict[int, float] = {}

    def _prior(self, rows: int) -> float:
        return 1.0 + self._row_cost * rows

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
            return self._prior(rows)
        known = sorted(self._seen)
        below = [size for size in known if size <= rows]
        above = [size for size in known if size > rows]
        low = max((self._seen[size] for size in below), default=0.0)
        if below and above:
            high = max(low, self._seen[above[0]])
            return low + (high - low) * (rows - below[-1]) / (above[0] - below[-1])
        anchor = below[-1] if below else above[0]
        return max(low, self._seen[anchor] * self._prior(rows) / self._prior(anchor))


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
