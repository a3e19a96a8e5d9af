"""Pending guesses of one session, keyed by outcome: whatever the target says next, a guess for it may already be here.

The root is the last committed token. Drafts are added whenever they come; a late one is used where it agrees with
what was committed meanwhile. Committing tokens walks down the tree, so a correction that was foreseen costs nothing.
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from paceline.core.errors import InvalidRequest
from paceline.core.types import Draft, Graft, Tokens

MAX_NODES = 512
"""Guessed tokens kept per session; a draft that would exceed it replaces everything older."""
MAX_PATH = 256
"""Tokens of one path of a draft at most."""
MAX_OTHERS = 8
"""Guesses beside the path, per place."""
TAIL = 256
"""Committed tokens remembered, to judge late drafts."""
KEYS = 1 << 16
"""Keys of places lie below this: with two bytes, a place of a full tree is mistaken for another less than once in a
hundred times, which costs the guess behind it."""


def checksum(token_ids: Sequence[int], so_far: int = 0) -> int:
    """CRC-32 of token ids as unsigned 32-bit little-endian numbers, going on from ``so_far``."""
    return zlib.crc32(struct.pack(f"<{len(token_ids)}I", *token_ids), so_far)


def _behind(so_far: int, token: int) -> int:
    return zlib.crc32(token.to_bytes(4, "little"), so_far)


def key_of(token_ids: Sequence[int]) -> int:
    """Names the place behind these tokens, which follow a draft's base: both sides compute it."""
    return checksum(token_ids) % KEYS


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
    for graft in draft.grafts:
        if not 0 <= graft.after < KEYS:
            raise InvalidRequest(f"grafts: {graft.after} is no key of a place; keys have 16 bits.")
        lengths.append(len(graft.token_ids))
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
    for graft in draft.grafts:
        yield graft.token_ids, graft.confidences


@dataclass(frozen=True, slots=True)
class _Place:
    """Where something may hang: a node, or the root and the committed tokens before it that must be repeated first."""

    node: _Node
    checksum: int
    """Of the tokens from the draft's base up to ``node``."""
    said: Tokens = ()


class DraftTree:
    """Memory is bounded by ``MAX_NODES`` and ``TAIL``, whatever is added."""

    def __init__(self, context: Sequence[int]) -> None:
        self._position = len(context)
        self._tail: deque[int] = deque(context[-TAIL:], maxlen=TAIL)
        self._root = _Node()
        self._num_nodes = 0
        self._places: tuple[int, dict[int, _Place]] | None = None
        """By key, as seen from a base so many tokens back; until the tree changes otherwise than by grafts."""

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
        num_grafted = sum(len(graft.token_ids) for graft in draft.grafts)
        if self._num_nodes + sum(len(path) for path in paths) + num_grafted > MAX_NODES:
            self._root, self._num_nodes, self._places = _Node(), 0, None
        # Branches before what they branch off, the main path last: the last one makes the favourites.
        added = sum(self._insert(path) for path in reversed(paths))
        return added + self._hang(draft.base, draft.grafts)

    def _hang(self, base: int, grafts: Sequence[Graft]) -> int:
        """What comes first at a place is its favourite, unless it has one; grafts may hang on grafts before them."""
        late = self._position - base
        if not grafts or not 0 <= late <= len(self._tail):
            return 0
        places, added = self._places_from(late), 0
        for graft in grafts:
            place = places.get(graft.after)
            path = _with_confidences(graft.token_ids, graft.confidences)
            if place is None or graft.token_ids[: len(place.said)] != place.said[: len(path)]:
                continue
            added += self._insert(path[len(place.said) :], place, places)
        return added

    def _places_from(self, late: int) -> dict[int, _Place]:
        """By key: all nodes, and the last ``late`` committed tokens."""
        if self._places is not None and self._places[0] == late:
            return self._places[1]
        said = tuple(self._tail)[len(self._tail) - late :]
        root = _Place(self._root, checksum(said))
        places = {key_of(said[:index]): replace(root, said=said[index:]) for index in range(late)}
        waiting = [root]
        while waiting:
            place = waiting.pop()
            places[place.checksum % KEYS] = place
            waiting += [_Place(child, _behind(place.checksum, token)) for token, child in place.node.children.items()]
        self._places = late, places
        return places

    def _insert(
        self,
        path: Sequence[tuple[int, float | None]],
        place: _Place | None = None,
        places: dict[int, _Place] | None = None,
    ) -> int:
        """From the root, or from ``place``, whose favourite stays; new places are added to ``places``."""
        node, added = place.node if place else self._root, 0
        number = place.checksum if place else 0
        for index, (token, confidence) in enumerate(path):
            child = node.children.get(token)
            if child is None:
                if self._num_nodes >= MAX_NODES:
                    break
                child = node.children[token] = _Node()
                self._num_nodes += 1
                added += 1
            child.confidence = confidence
            if index or place is None or node.favourite is None:
                node.favourite = token
            node = child
            if places is not None:
                number = _behind(number, token)
                places[number % KEYS] = _Place(node, number)
        if added and places is None:
            self._places = None
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
        self._places = None
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
