"""Pending guesses of one session, keyed by outcome: whatever the target says next, a guess for it may already be here.

The root is the last committed token. Drafts are added whenever they come; a late one is used where it agrees with
what was committed meanwhile. Committing tokens walks down the tree, so a correction that was foreseen costs nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from paceline.core.errors import InvalidRequest
from paceline.core.types import Draft, Tokens

MAX_NODES = 512
"""Guessed tokens kept per session; a draft that would exceed it replaces everything older."""
MAX_PATH = 256
"""Tokens of one path of a draft at most."""
MAX_OTHERS = 4
"""Guesses beside the path, per place."""
TAIL = 256
"""Committed tokens remembered, to judge late drafts."""


@dataclass(slots=True)
class _Node:
    """A guessed token; ``favourite`` is the child that the newest draft goes on with, by its main path if it can."""

    confidence: float | None = None
    children: dict[int, _Node] = field(default_factory=dict)
    favourite: int | None = None


@dataclass(frozen=True, slots=True)
class Other:
    """A guess beside a path: another token in place of the one at ``index``."""

    index: int
    token: int
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Path:
    """A chain of guesses from the last committed token on."""

    token_ids: Tokens = ()
    confidences: tuple[float | None, ...] = ()
    """As the drafter gave them; None where it gave none."""
    others: tuple[Other, ...] = ()
    """By place, the surest first; those without a confidence come last."""

    def __len__(self) -> int:
        return len(self.token_ids)

    def count_right(self, tokens: Sequence[int]) -> int:
        """Tokens at its beginning that the target said too."""
        pairs = zip(self.token_ids, tokens, strict=False)
        return next((index for index, (own, token) in enumerate(pairs) if own != token), min(len(self), len(tokens)))

    def first(self, count: int) -> Path:
        """Its first tokens, and what else could be said in their places."""
        others = tuple(other for other in self.others if other.index < count)
        return Path(self.token_ids[:count], self.confidences[:count], others)


def check_draft(draft: Draft, vocab_size: int) -> None:
    """Raise ``InvalidRequest`` for a draft that no honest drafter sends."""
    for token_ids, confidences in _parts(draft):
        _check_part(token_ids, confidences, vocab_size)
    lengths = [len(draft.token_ids)]
    for index, branch in enumerate(draft.branches, start=1):
        if not 0 <= branch.parent < index:
            raise InvalidRequest(f"branches: parent {branch.parent} of branch {index} is not an earlier path.")
        offset = branch.position - draft.base
        if not 0 <= offset <= lengths[branch.parent]:
            raise InvalidRequest(f"branches: position {branch.position} is not on the parent's path.")
        lengths.append(offset + len(branch.token_ids))
    if max(lengths) > MAX_PATH or sum(lengths) > 8 * MAX_PATH:
        raise InvalidRequest(f"token_ids: a path of {max(lengths)} tokens is longer than {MAX_PATH}.")


def _check_part(token_ids: Tokens, confidences: tuple[float, ...], vocab_size: int) -> None:
    if confidences and len(confidences) != len(token_ids):
        raise InvalidRequest(f"confidences: {len(confidences)} for {len(token_ids)} tokens; send one per token.")
    odd = next((one for one in confidences if not 0.0 <= one <= 1.0), None)
    if odd is not None:
        raise InvalidRequest(f"confidences: {odd} is not a chance between 0 and 1.")
    bad = next((token for token in token_ids if not 0 <= token < vocab_size), None)
    if bad is not None:
        raise InvalidRequest(f"token_ids: {bad} is outside the vocabulary of {vocab_size}; check the tokenizer.")


def _parts(draft: Draft) -> Iterator[tuple[Tokens, tuple[float, ...]]]:
    yield draft.token_ids, draft.confidences
    for branch in draft.branches:
        yield branch.token_ids, branch.confidences


class DraftTree:
    """Memory is bounded by ``MAX_NODES`` and ``TAIL``, whatever is added."""

    def __init__(self, context: Sequence[int]) -> None:
        self._position = len(context)
        self._tail: deque[int] = deque(context[-TAIL:], maxlen=TAIL)
        self._root = _Node()
        self._num_nodes = 0

    @property
    def position(self) -> int:
        """Number of committed tokens = position of the next one."""
        return self._position

    @property
    def num_nodes(self) -> int:
        """Guessed tokens held."""
        return self._num_nodes

    def add(self, draft: Draft) -> int:
        """Keep what agrees with the committed tokens; return how many tokens are new and useful."""
        paths = [self._beyond_committed(draft.base, path) for path in _unfold(draft)]
        if self._num_nodes + sum(len(path) for path in paths) > MAX_NODES:
            self._root, self._num_nodes = _Node(), 0
        # Branches before what they branch off, the main path last: the last one makes the favourites.
        return sum(self._insert(path) for path in reversed(paths))

    def _insert(self, path: Sequence[tuple[int, float | None]]) -> int:
        node, added = self._root, 0
        for token, confidence in path:
            child = node.children.get(token)
            if child is None:
                if self._num_nodes >= MAX_NODES:
                    break
                child = node.children[token] = _Node()
                self._num_nodes += 1
                added += 1
            child.confidence = confidence
            node.favourite, node = token, child
        return added

    def _beyond_committed(
        self, base: int, path: Sequence[tuple[int, float | None]]
    ) -> Sequence[tuple[int, float | None]]:
        """The part of ``path`` after the last committed token; empty when it disagrees or can't be judged."""
        late = self._position - base
        if late < 0 or late > min(len(self._tail), len(path)):
            return ()
        start = len(self._tail) - late
        agrees = all(self._tail[start + i] == path[i][0] for i in range(late))
        return path[late:] if agrees else ()

    def advance(self, tokens: Sequence[int]) -> None:
        """Commit ``tokens``: walk down to what was guessed for this outcome, forget the rest."""
        node: _Node | None = self._root
        for token in tokens:
            node = node.children.get(token) if node is not None else None
        self._tail.extend(tokens)
        self._position += len(tokens)
        self._root = node or _Node()
        self._root.confidence = None
        self._num_nodes = _count(self._root)

    def path(self, max_tokens: int) -> Path:
        """The likeliest chain from the root."""
        tokens: list[int] = []
        confidences: list[float | None] = []
        others: list[Other] = []
        node = self._root
        while node.favourite is not None and len(tokens) < max_tokens:
            if len(node.children) > 1:
                others += _others(node, len(tokens))
            token = node.favourite
            node = node.children[token]
            tokens.append(token)
            confidences.append(node.confidence)
        return Path(tuple(tokens), tuple(confidences), tuple(others))


def _others(node: _Node, index: int) -> list[Other]:
    """Beside the favourite; a place has few that are worth checking."""
    found = [Other(index, token, child.confidence) for token, child in node.children.items() if token != node.favourite]
    return sorted(found, key=lambda one: -1.0 if one.confidence is None else one.confidence, reverse=True)[:MAX_OTHERS]


def _count(root: _Node) -> int:
    """Nodes below ``root``; iterative, since a path may be longer than the recursion limit allows."""
    count, waiting = 0, [root]
    while waiting:
        node = waiting.pop()
        count += len(node.children)
        waiting.extend(node.children.values())
    return count


def _unfold(draft: Draft) -> list[list[tuple[int, float | None]]]:
    """Every path of a draft from its base on: the main one, then one per branch."""
    paths = [_with_confidences(draft.token_ids, draft.confidences)]
    for branch in draft.branches:
        shared = paths[branch.parent][: branch.position - draft.base]
        paths.append(shared + _with_confidences(branch.token_ids, branch.confidences))
    return paths


def _with_confidences(token_ids: Tokens, confidences: tuple[float, ...]) -> list[tuple[int, float | None]]:
    given: Sequence[float | None] = confidences or (None,) * len(token_ids)
    return list(zip(token_ids, given, strict=True))
