"""Guesses of several sources for one session, merged into the likeliest path and branches for the others. Pure.

The guesses form a tree below the last committed token. Every token of it is a claim, whose chance is learned
(``trust``); the path with the highest expected number of right tokens wins, which is the sum of its cumulative
chances: it may follow one source and go on with another where they agree. Later commits walk down the tree and tell
what became of each claim, also of those that no verifier has checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paceline.core.types import Branch, DraftJob, Guess, Tokens
from paceline.speculation.trust import Claim, SessionTrust

DEFAULT_CONFIDENCE = 0.6
"""For sources that give none."""
MIN_BRANCH = 0.03
"""Branches that are needed less often than this are not worth a row."""


class _Node:
    """A guessed token; plain attributes, since a session makes dozens of them per job."""

    __slots__ = ("best", "chance", "children", "claim", "depth", "doubt", "favourite", "supporters")

    def __init__(self, depth: int) -> None:
        self.children: dict[int, _Node] = {}
        self.depth = depth
        self.supporters = 0
        self.doubt = 1.0
        self.claim: Claim | None = None
        self.chance = 0.0
        self.best = 0.0
        """Expected number of right tokens below, given that this one is right."""
        self.favourite: int | None = None


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one source guesses."""

    source: int
    """Its number, from 0."""
    guess: Guess


class Merger:
    """One session's guesses; remembers those that no commit has judged yet."""

    def __init__(self, trust: SessionTrust, position: int) -> None:
        self._trust = trust
        self._position = position
        self._root = _Node(0)

    def advance(self, job: DraftJob) -> None:
        """Learn from what was committed since the last job."""
        for token in job.context[self._position : job.committed]:
            for guessed, node in self._root.children.items():
                if node.claim is not None:
                    self._trust.learn(node.claim, guessed == token)
            self._root = self._root.children.get(token) or _Node(0)
        self._position = max(self._position, job.committed)

    def merge(self, job: DraftJob, opinions: Sequence[Opinion]) -> Guess:
        """One guess with calibrated confidences. Opinions continue the job's context; an earlier one is replaced."""
        top = self._find(job)
        top.children, top.favourite, top.best = {}, None, 0.0
        nodes = [top]
        for opinion in opinions:
            self._grow(top, opinion, nodes, len(job.context))
        for node in reversed(nodes):  # children come after their parents
            if node.children:
                self._weigh(node)
        return _read(job, top)

    def _find(self, job: DraftJob) -> _Node:
        """The node where the job's path ends; what was never guessed here gets nodes without claims."""
        node = self._root
        for depth, token in enumerate(job.context[job.committed :], start=1):
            child = node.children.get(token)
            if child is None:
                child = node.children[token] = _Node(depth)
            node = child
        node.depth = len(job.context) - job.committed
        return node

    def _grow(self, top: _Node, opinion: Opinion, nodes: list[_Node], end: int) -> None:
        """A source's path, and its own branches from it; the job's context ends at position ``end``."""
        mark, guess = 1 << opinion.source, opinion.guess
        path = self._add(top, mark, guess.token_ids, guess.confidences, nodes)
        for branch in guess.branches:
            if branch.parent == 0 and 0 <= branch.position - end < len(path):
                self._add(path[branch.position - end], mark, branch.token_ids, branch.confidences, nodes)

    def _add(
        self, node: _Node, mark: int, token_ids: Tokens, confidences: Sequence[float], nodes: list[_Node]
    ) -> list[_Node]:
        """The nodes of a path from ``node`` on, itself the first."""
        path = [node]
        for index, token in enumerate(token_ids):
            child = node.children.get(token)
            if child is None:
                child = node.children[token] = _Node(node.depth + 1)
                nodes.append(child)
            child.supporters |= mark
            child.doubt *= 1.0 - (confidences[index] if confidences else DEFAULT_CONFIDENCE)
            path.append(child)
            node = child
        return path

    def _weigh(self, node: _Node) -> None:
        """Claims and chances of the children, and which of them leads furthest."""
        speakers = 0
        for child in node.children.values():
            speakers |= child.supporters
        for token, child in node.children.items():
            child.claim = Claim(child.supporters, speakers & ~child.supporters, node.depth, 1.0 - child.doubt)
            child.chance = self._trust.chance(child.claim)
            expected = child.chance * (1.0 + child.best)
            if expected > node.best:
                node.best, node.favourite = expected, token


def _read(job: DraftJob, top: _Node) -> Guess:
    """The best path from ``top``, and where others part from it their best continuations, likeliest place first."""
    tokens, confidences = _follow(top)
    branches: list[Branch] = []
    node, reach = top, 1.0
    for index, favourite in enumerate(tokens):
        for token, other in node.children.items():
            if token != favourite and reach * other.chance >= MIN_BRANCH:
                beyond, chances = _follow(other)
                position = len(job.context) + index
                branches.append(Branch(0, position, (token, *beyond), (other.chance, *chances)))
        node = node.children[favourite]
        reach *= node.chance
    return Guess(job.session, tuple(tokens), tuple(confidences), tuple(branches))


def _follow(node: _Node) -> tuple[list[int], list[float]]:
    tokens: list[int] = []
    confidences: list[float] = []
    while node.favourite is not None:
        tokens.append(node.favourite)
        node = node.children[node.favourite]
        confidences.append(node.chance)
    return tokens, confidences
