"""Toy language models small enough to write down the chance of every sequence, and decoding loops over many seeds.

A context is a number: its tokens are the digits, the vocabulary is the base. Row ``p[t][context]`` is the law of the
token after ``t`` tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from support import many
from support.many import Floats, Ints, Words

START = 5
"""Position of the first token: the prompt is never empty."""


@dataclass(frozen=True)
class Toy:
    """A target and a drafter over ``vocab`` tokens, for sequences of ``length`` tokens."""

    vocab: int
    length: int
    p: tuple[Floats, ...]
    q: tuple[Floats, ...]

    @property
    def num_sequences(self) -> int:
        return self.vocab**self.length

    @property
    def joint(self) -> Floats:
        """Chance of every sequence under the target, [vocab ** length]."""
        out = np.ones(1)
        for rows in self.p:
            out = (out[:, None] * rows).reshape(-1)
        return out


def make(vocab: int, length: int, seed: int, *, distance: float = 1.0, zeros: float = 0.0) -> Toy:
    """Random laws; the drafter's logits are ``distance`` away, and a share ``zeros`` of chances is 0, as by top-k."""
    rng = np.random.default_rng(seed)
    p, q = [], []
    for t in range(length):
        logits = rng.standard_normal((vocab**t, vocab))
        p.append(_rows(rng, logits, zeros))
        q.append(_rows(rng, logits + distance * rng.standard_normal(logits.shape), zeros))
    return Toy(vocab, length, tuple(p), tuple(q))


def _rows(rng: np.random.Generator, logits: Floats, zeros: float) -> Floats:
    weights = np.exp(logits) * (rng.random(logits.shape) >= zeros)
    weights[np.arange(len(weights)), rng.integers(weights.shape[1], size=len(weights))] += 0.3
    out: Floats = weights / weights.sum(axis=1, keepdims=True)
    return out


@dataclass(frozen=True)
class Round:
    """n sessions that all have ``t`` tokens and check ``k`` drafts next."""

    toy: Toy
    t: int
    k: int
    context: Ints
    seeds: Words

    @property
    def position(self) -> int:
        return START + self.t

    def noise(self, lane: int) -> Floats:
        """Fresh in every round: a round starts where no other one did."""
        return many.uniform(self.seeds, self.position, lane)

    def draft(self, choose: Callable[[Floats, int], Ints]) -> tuple[Ints, Floats, Floats]:
        """Drafted tokens [n, k], target rows [n, k + 1, vocab], draft rows [n, k, vocab]."""
        context, x, p, q = self.context, [], [self.toy.p[self.t][self.context]], []
        for i in range(self.k):
            q.append(self.toy.q[self.t + i][context])
            x.append(choose(q[-1], i))
            context = context * self.toy.vocab + x[-1]
            p.append(self.toy.p[self.t + i + 1][context])
        none = np.empty((len(context), 0, self.toy.vocab))
        return (
            np.array(x, np.int64).reshape(self.k, len(self.seeds)).T,
            np.stack(p, axis=1),
            np.stack(q, axis=1) if q else none,
        )


Rule = Callable[[Round], tuple[Ints, Ints, Ints]]
"""What a round commits: drafted tokens [n, k], how many are accepted [n], the target's token after them [n]."""


def coupled(one: Round) -> tuple[Ints, Ints, Ints]:
    """Drafter and target share their noise; a draft is kept iff it equals the target's token."""
    x, p, _ = one.draft(lambda q, i: many.sample(logarithms(q), one.seeds, one.position + i))
    return x, *many.accept_coupled(x, logarithms(p), one.seeds, one.position)


def rejection(one: Round) -> tuple[Ints, Ints, Ints]:
    """Independent noise for drafting, accepting and drawing anew."""
    x, p, q = one.draft(lambda q, i: many.draw(q, one.noise(2 * i)))
    return x, *many.accept_chain(x, q, p, uniforms(one), one.noise(2 * one.k))


def block(one: Round) -> tuple[Ints, Ints, Ints]:
    """As rejection, with the joint test."""
    x, p, q = one.draft(lambda q, i: many.draw(q, one.noise(2 * i)))
    return x, *many.accept_block(x, q, p, uniforms(one), one.noise(2 * one.k))


def uniforms(one: Round) -> Floats:
    """One per drafted token, [n, k]."""
    return np.stack([one.noise(2 * i + 1) for i in range(one.k)], axis=1) if one.k else np.empty((len(one.seeds), 0))


def logarithms(p: Floats) -> Floats:
    """-inf where the chance is 0."""
    with np.errstate(divide="ignore"):
        return np.log(p)


def decode(toy: Toy, rule: Rule, k: int, seeds: Words) -> Ints:
    """Drafts and accepts until every session is complete; how often each sequence came out, [vocab ** length]."""
    length, context = np.zeros(len(seeds), np.int64), np.zeros(len(seeds), np.int64)
    for t in range(toy.length):
        here = np.flatnonzero(length == t)
        if not here.size:
            continue
        x, accepted, token = rule(Round(toy, t, min(k, toy.length - t - 1), context[here], seeds[here]))
        for i in range(x.shape[1]):
            kept = accepted > i
            context[here[kept]] = context[here[kept]] * toy.vocab + x[kept, i]
        context[here] = context[here] * toy.vocab + token
        length[here] += accepted + 1
    return np.bincount(context, minlength=toy.num_sequences)
