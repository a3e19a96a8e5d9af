"""What a drafter has guessed for one session, keyed by outcome: its path, and what the target may say instead. Pure.

At every place the drafter's first choice goes on the path, its further ones are alternatives. Looking ahead, they are
continued too, the likeliest outcome first: the chance that the target comes by there is the product of the chances on
the way, which confidences say and outcomes correct. A commit walks down to what it says; what was guessed behind it
stays, also where it contradicts the path, since the verifier has it as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from paceline.core.types import Branch, Draft, Guess, Tokens
from paceline.speculation.odds import Shift

DEFAULT_CONFIDENCE = 0.5
"""Of a drafter that gives none."""
DECAY, WEIGHT = 0.98, 6.0
"""Of what outcomes say about confidences; as in ``odds``."""
FIRST_RATE = 0.7
"""Of first choices that are right, before any was judged."""
NUM_RANKS = 4
"""Alternatives of a place whose chances are learned apart; later ones count as the last of these."""
LEAST, MOST = 0.01, 0.99
"""Nothing is held for impossible or certain."""
LEAST_REACH = 0.005
"""Outcomes less likely than this are not worth a token or a byte."""
MAX_NODES = 256
"""Guesses of a session at most, alternatives that nothing follows aside; fewer than its verifier keeps."""


@dataclass(slots=True)
class _Node:
    """A guessed token; the root is the last committed one."""

    confidence: float = 1.0
    rank: int = 0
    """Among the alternatives of its place, when it is one."""
    beyond: Branch | None = None
    """What its drafter said after it at once, without being asked to go on from there."""
    first: int | None = None
    """The drafter's choice after it."""
    children: dict[int, _Node] = field(default_factory=dict)
    is_sent: bool = False
    dry_since: int = -1
    """Nothing came to mind after it when so many commits had come."""

    @property
    def others(self) -> Iterator[tuple[int, _Node]]:
        """The alternatives after it."""
        return ((token, child) for token, child in self.children.items() if token != self.first)


@dataclass(frozen=True, slots=True)
class WayOn:
    """A place where the drafter may go on."""

    reach: float
    """Chance that the target comes by there."""
    tail: Tokens
    """Guessed tokens up to there."""


class OutcomeOdds:
    """Chances of first choices and alternatives, as confidences say and as outcomes of this session correct them."""

    def __init__(self) -> None:
        self._first = Shift(DECAY, WEIGHT)
        self._num_right, self._num_judged = FIRST_RATE * WEIGHT, WEIGHT
        self._others = [Shift(DECAY, WEIGHT) for _ in range(NUM_RANKS)]

    @property
    def rate(self) -> float:
        """Share of first choices that were right lately."""
        return self._num_right / self._num_judged

    def first(self, node: _Node) -> float:
        """Chance that the target says the first choice after ``node``."""
        if node.first is None:
            return 0.0
        return _bounded(self._first.apply(_bounded(node.children[node.first].confidence)))

    def other(self, node: _Node, other: _Node) -> float:
        """Chance that it says this alternative, given that the first choice is wrong."""
        return _bounded(self._others[_rank(other)].apply(_claim(node, other)))

    def observe(self, node: _Node, token: int) -> None:
        """The target said ``token`` after ``node``."""
        if node.first is None:
            return
        is_right = token == node.first
        self._num_right = DECAY * self._num_right + is_right
        self._num_judged = DECAY * self._num_judged + 1.0
        self._first.add(is_right, _bounded(node.children[node.first].confidence))
        if not is_right:
            for named, other in node.others:
                self._others[_rank(other)].add(named == token, _claim(node, other))


def _bounded(chance: float) -> float:
    return min(max(chance, LEAST), MOST)


def _rank(other: _Node) -> int:
    return min(other.rank, NUM_RANKS - 1)


def _claim(node: _Node, other: _Node) -> float:
    first = 0.0 if node.first is None else _bounded(node.children[node.first].confidence)
    return _bounded(other.confidence / (1.0 - first))


def best_block(chance: float, token_s: float, step_s: float, most: int) -> int:
    """Tokens to guess before a waiting verifier gets them: most tokens per second of guessing them and checking.

    chance: of each, given those before it. 1 to ``most``.
    """
    expected, reach, best, count = 1.0, 1.0, 0.0, 1
    for length in range(1, most + 1):
        reach *= chance
        expected += reach
        goodput = expected / max(step_s + length * token_s, 1e-9)
        if goodput > best:
            best, count = goodput, length
    return count


def choose_ends(reaches: Sequence[float], base: int, call_s: Callable[[int], float]) -> int:
    """How many of ``reaches``, likeliest first, to go on from in a call that has ``base`` contexts already.

    Their sum is what a call is worth: as many are taken as make most of it per second.
    """
    worth = float(base)
    best, count = worth / call_s(base) if base else 0.0, 0
    for taken, reach in enumerate(reaches, start=1):
        worth += reach
        goodput = worth / call_s(base + taken)
        if goodput > best:
            best, count = goodput, taken
    return count


def join(before: Draft, newer: Draft) -> Draft:
    """One draft that says what both say, if one path goes on with the other; else the newer one."""
    if before.base != newer.base or len(before.branches) + len(newer.branches) > MAX_NODES:
        return newer
    size = min(len(before.token_ids), len(newer.token_ids))
    if not size or before.token_ids[:size] != newer.token_ids[:size]:
        return newer
    longer = before if len(before.token_ids) > size else newer
    branches, numbers = list(before.branches), [0]
    for branch in newer.branches:
        same = replace(branch, parent=numbers[branch.parent])
        if same not in branches:
            branches.append(same)
        numbers.append(branches.index(same) + 1)
    return replace(longer, branches=tuple(branches))


class GuessTree:
    """``fan_out`` alternatives per place at most; with ``keeps_others``, those that came true are gone on from."""

    def __init__(self, fan_out: int, *, keeps_others: bool) -> None:
        self.odds = OutcomeOdds()
        self._fan_out = max(0, fan_out)
        self._keeps_others = keeps_others
        self._root = _Node()
        self._num_nodes = 0
        self._num_commits = 0

    def clear(self) -> None:
        """Forget the guesses, keep what was learned."""
        self._root, self._num_nodes = _Node(), 0

    @property
    def path(self) -> Tokens:
        """First choices from the last committed token on."""
        return tuple(token for token, _ in _follow(self._root))

    def advance(self, tokens: Sequence[int]) -> None:
        """These were committed: keep what was guessed behind them."""
        self._num_commits += 1
        node = self._root
        for token in tokens:
            self.odds.observe(node, token)
            child = node.children.get(token)
            if child is None or (token != node.first and not self._keeps_others):
                self.clear()
                return
            node = child
        self._root, self._num_nodes = node, _count(node)

    def grow(self, tail: Tokens, guess: Guess, position: int) -> bool:
        """Put ``guess`` at the end of ``tail``, which begins at ``position``; its last tokens are the guess's own.

        False when nothing of it fits.
        """
        nodes = self._walk(tail, len(tail) - len(guess.token_ids), guess)
        if nodes is None:
            return False
        for branch in guess.branches:
            depth = branch.position - position
            if branch.parent == 0 and branch.token_ids and 0 <= depth < len(nodes):
                self._add_other(nodes[depth], branch)
        return True

    def _walk(self, tail: Tokens, num_known: int, guess: Guess) -> list[_Node] | None:
        """The nodes of ``tail``, those beyond the first ``num_known`` made first choices; root first."""
        nodes = [self._root]
        for index, token in enumerate(tail):
            node, child = nodes[-1], nodes[-1].children.get(token)
            if index < num_known:
                if child is None:
                    return None
            else:
                chance = guess.confidences[index - num_known] if guess.confidences else DEFAULT_CONFIDENCE
                if child is None:
                    child = node.children[token] = _Node(chance)
                    self._num_nodes += 1
                child.confidence, node.first, node.beyond = chance, token, None
            nodes.append(child)
        return nodes

    def _add_other(self, node: _Node, branch: Branch) -> None:
        token = branch.token_ids[0]
        rank = sum(1 for _ in node.others)
        if token in node.children or rank >= self._fan_out:
            return
        confidence = branch.confidences[0] if branch.confidences else DEFAULT_CONFIDENCE / 2
        node.children[token] = _Node(confidence, rank, branch)

    def mark_dry(self, tail: Tokens) -> None:
        """The drafter has nothing to say after ``tail``, until the next commit."""
        node = self._find(tail)
        if node is not None:
            node.dry_since = self._num_commits

    def is_dry(self, tail: Tokens) -> bool:
        """Whether that is so."""
        node = self._find(tail)
        return node is not None and node.dry_since == self._num_commits

    def _find(self, tail: Tokens) -> _Node | None:
        node: _Node | None = self._root
        for token in tail:
            node = node.children.get(token) if node is not None else None
        return node

    def open_ends(self, most: int) -> list[WayOn]:
        """Where to go on, at most ``most`` tokens deep, the likeliest first; the path's end is one of them."""
        if self._num_nodes >= MAX_NODES:
            return []
        ends: list[WayOn] = []
        waiting: list[tuple[float, Tokens, _Node]] = [(1.0, (), self._root)]
        while waiting:
            reach, tail, node = waiting.pop()
            if node.first is None and node.dry_since != self._num_commits and len(tail) < most:
                ends.append(WayOn(reach, tail))
            waiting += [
                (chance, (*tail, token), child)
                for chance, token, child in self._after(node, reach)
                if chance >= LEAST_REACH
            ]
        return sorted(ends, key=lambda end: end.reach, reverse=True)

    def _after(self, node: _Node, reach: float) -> list[tuple[float, int, _Node]]:
        first = self.odds.first(node)
        found = [(reach * (1.0 - first) * self.odds.other(node, other), token, other) for token, other in node.others]
        if node.first is not None:
            found.append((reach * first, node.first, node.children[node.first]))
        return found

    def parts(self, position: int, room: int) -> tuple[Tokens, tuple[float, ...], tuple[Branch, ...]]:
        """The path of at most ``room`` tokens, its confidences, and branches.

        Looking ahead, only branches that are new, and of the path only what they need where it is not new itself.
        """
        chain = _follow(self._root)[:room]
        branches: list[Branch] = []
        node, reach = self._root, 1.0
        for depth in range(len(chain) + 1):
            if depth < room:
                self._branch_off(node, 0, position + depth, (reach, room - depth), branches)
            if depth < len(chain):
                reach, node = reach * self.odds.first(node), chain[depth][1]
        needed = len(chain)
        if self._keeps_others and all(node.is_sent for _, node in chain):
            needed = min(needed, max((one.position - position + 1 for one in branches if not one.parent), default=0))
        for _, node in chain:
            node.is_sent = True
        own = chain[:needed]
        return tuple(token for token, _ in own), tuple(node.confidence for _, node in own), tuple(branches)

    def _branch_off(
        self, node: _Node, parent: int, position: int, limits: tuple[float, int], branches: list[Branch]
    ) -> None:
        """Add what leaves at ``node`` and is worth sending: (chance to come by there, tokens at most)."""
        reach, room = limits
        wrong = reach * (1.0 - self.odds.first(node))
        for token, other in node.others:
            chance = wrong * self.odds.other(node, other)
            if room <= 0 or (self._keeps_others and (chance < LEAST_REACH or not _has_news(other))):
                continue
            chain = [(token, other), *_follow(other)][:room]
            branches.append(_branch(parent, position, chain, room))
            number, way = len(branches), chance
            for depth, (_, step) in enumerate(chain, start=1):
                step.is_sent = True
                if self._keeps_others:
                    self._branch_off(step, number, position + depth, (way, room - depth), branches)
                    way *= self.odds.first(step)


def _branch(parent: int, position: int, chain: Sequence[tuple[int, _Node]], room: int) -> Branch:
    beyond = chain[0][1].beyond
    if len(chain) == 1 and beyond is not None:
        return Branch(parent, position, beyond.token_ids[:room], beyond.confidences[:room])
    return Branch(parent, position, tuple(token for token, _ in chain), tuple(node.confidence for _, node in chain))


def _follow(node: _Node) -> list[tuple[int, _Node]]:
    chain = []
    while node.first is not None:
        chain.append((node.first, node.children[node.first]))
        node = chain[-1][1]
    return chain


def _has_news(node: _Node) -> bool:
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if not one.is_sent:
            return True
        waiting += one.children.values()
    return False


def _count(root: _Node) -> int:
    count, waiting = 0, [root]
    while waiting:
        node = waiting.pop()
        count += node.first is not None
        waiting += node.children.values()
    return count
