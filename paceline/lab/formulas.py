"""Time per token of every mode, on paper: what the measured curves are held against. Pure.

Tokens are accepted independently with chance a, so a step that checks k drafts brings L = (1 - a^(k+1)) / (1 - a).
t_v(k) is the time of such a step, t_d that of one drafted token, r the round trip between verifier and drafter. Each
mode takes the k that suits it best, and none is slower than plain decoding: a verifier that waits in vain goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from paceline.core.requests import DraftMode

LONGEST = 16


@dataclass(frozen=True, slots=True)
class Hardware:
    """A target and a drafter, in numbers; seconds."""

    plain_s: float = 0.030
    """A step of one row."""
    row_s: float = 0.0003
    """Added per further row."""
    token_s: float = 0.0021
    """A drafted token."""
    branch_s: float = 0.00007
    """Added per drafted token of every further outcome in the same call: drafters batch as targets do."""
    acceptance: float = 0.8
    """Chance that a drafted token is right."""
    hit: float = 0.85
    """Chance that the target's token is among the alternatives where it is wrong."""
    alternatives: int = 3

    def step_s(self, length: int) -> float:
        """A step that checks so many drafts."""
        return self.plain_s + self.row_s * length

    def tokens(self, length: int) -> float:
        """Tokens that it brings."""
        return sum(self.acceptance**index for index in range(length + 1))

    def ahead_s(self, length: int) -> float:
        """Drafting so many tokens behind each outcome of a step that checks so many."""
        outcomes = (length + 1) * self.alternatives
        return length * (self.token_s + self.branch_s * outcomes)


def colocated(on: Hardware, length: int, rtt_s: float) -> float:
    """(k t_d + t_v) / L"""
    return (length * on.token_s + on.step_s(length)) / on.tokens(length)


def sync(on: Hardware, length: int, rtt_s: float) -> float:
    """(k t_d + t_v + r) / L"""
    return (length * on.token_s + on.step_s(length) + rtt_s) / on.tokens(length)


def pipeline(on: Hardware, length: int, rtt_s: float) -> float:
    """Blocks follow each other until one is wrong, A = a^k: then the pipe is filled anew."""
    whole = on.acceptance**length
    full = max(on.step_s(length), length * on.token_s)
    refill = on.step_s(length) + length * on.token_s + rtt_s
    return (whole * full + (1 - whole) * refill) * (1 - on.acceptance) / (1 - whole)


def lookahead(on: Hardware, length: int, rtt_s: float) -> float:
    """A foreseen outcome costs what its drafts are later than the step, another one the whole way."""
    step, ahead = on.step_s(length), on.ahead_s(length)
    foreseen = step + max(0.0, rtt_s + ahead - step)
    anew = step + rtt_s + length * on.token_s
    return (on.hit * foreseen + (1 - on.hit) * anew) / on.tokens(length)


_FORMULAS: dict[DraftMode, Callable[[Hardware, int, float], float]] = {
    DraftMode.COLOCATED: colocated,
    DraftMode.SYNC: sync,
    DraftMode.PIPELINE: pipeline,
    DraftMode.LOOKAHEAD: lookahead,
}


def token_s(on: Hardware, mode: DraftMode, rtt_s: float) -> float:
    """Seconds per token with the length that suits best, never more than plain decoding takes."""
    formula = _FORMULAS.get(mode)
    lengths = range(1, LONGEST + 1) if formula is not None else ()
    return min([on.plain_s, *(formula(on, length, rtt_s) for length in lengths if formula is not None)])
