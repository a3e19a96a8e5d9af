"""What a drafter has guessed for one session, keyed by outcome: its path, and what the target may say instead. Pure.

At every place the drafter's first choice goes on the path, its further ones are alternatives. Looking ahead, they are
continued too, the likeliest outcome first: the chance that the target comes by there is the product of the chances on
the way, which confidences say and outcomes correct. A commit walks down to what it says; what was guessed behind it
stays, also where it contradicts the path, since the verifier has it as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from paceline.core.types import Branch, Draft, Graft, Guess, Tokens
from paceline.speculation.draft_tree import KEYS, checksum
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
"""Outcomes less likely than this are not worth a token or a byte, unless somebody says otherwise."""
LEAST_SECOND = 0.02
"""The same for alternatives that nothing will follow: they only have a row of a step to win."""
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
    """One draft that says what both say, if the newer one only has more of the same; else the newer one."""
    is_more = bool(newer.grafts) and before.base == newer.base and not newer.token_ids and not newer.branches
    if not is_more or len(before.branches) + len(before.grafts) + len(newer.grafts) > MAX_NODES:
        return newer
    return replace(before, grafts=(*before.grafts, *newer.grafts))


class GuessTree:
    """``fan_out`` alternatives per place at most; with ``keeps_others``, those that came true are gone on from."""

    def __init__(self, fan_out: int, *, keeps_others: bool, least_reach: float = LEAST_REACH) -> None:
        self.odds = OutcomeOdds()
        self._least_reach = least_reach
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

    @property
    def has_sent(self) -> bool:
        """Whoever gets the drafts should have something to check."""
        return self._root.first is not None and self._root.children[self._root.first].is_sent

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
                if chance >= self._least_reach
            ]
        return sorted(ends, key=lambda end: end.reach, reverse=True)

    def _after(self, node: _Node, reach: float) -> list[tuple[float, int, _Node]]:
        first = self.odds.first(node)
        found = [(reach * (1.0 - first) * self.odds.other(node, other), token, other) for token, other in node.others]
        if node.first is not None:
            found.append((reach * first, node.first, node.children[node.first]))
        return found

    def news(self, session: str, position: int, room: int) -> Draft | None:
        """What wasn't sent yet and is worth it, at most ``room`` tokens ahead; None where there is nothing.

        A path of which nothing was sent begins anew; all else hangs where earlier drafts end or fork.
        """
        chain = _follow(self._root)[:room]
        known = _num_sent(chain)
        own = () if known else chain
        draft = _Parts(own, position)
        if known:
            draft.graft(chain[:known], chain[known:])
        _mark(chain)
        self._beside(chain, (1.0, room), (), draft)
        if not own and not draft.branches and not draft.grafts:
            return None
        return Draft(session, position, _tokens(own), _chances(own), tuple(draft.branches), tuple(draft.grafts))

    def _beside(self, chain: Steps, limits: tuple[float, int], before: Steps, draft: _Parts) -> None:
        """What leaves at ``before`` and along ``chain`` behind it; of ``limits`` see ``_leave``."""
        reach, room = limits
        node = before[-1][1] if before else self._root
        for depth in range(min(len(chain) + 1, room)):
            tail = (*before, *chain[:depth])
            for token, other in node.others:
                chance = reach * (1.0 - self.odds.first(node)) * self.odds.other(node, other)
                if chance >= (self._least_reach if self._keeps_others else LEAST_SECOND):
                    self._leave((token, other), (chance, room - depth), tail, draft)
            if depth < len(chain):
                reach, node = reach * self.odds.first(node), chain[depth][1]

    def _leave(self, step: Step, limits: tuple[float, int], before: Steps, draft: _Parts) -> None:
        """An alternative, or what is new behind it; ``limits``: the chance to come by there, and tokens at most."""
        reach, room = limits
        chain = [step, *self._likely(step[1], reach, room - 1)]
        known = _num_sent(chain)
        beyond = step[1].beyond
        if known:
            draft.graft((*before, *chain[:known]), chain[known:])
        elif beyond is not None and len(chain) == 1:
            draft.other(before, beyond.token_ids[:room], beyond.confidences[:room])
        else:
            draft.other(before, _tokens(chain), _chances(chain))
        _mark(chain)
        if self._keeps_others:
            self._beside(chain[1:], (reach, room - 1), (*before, step), draft)

    def _likely(self, node: _Node, reach: float, room: int) -> Steps:
        """First choices after it, while they are worth sending."""
        chain = _follow(node)[:room]
        for index, (_, step) in enumerate(chain):
            reach *= self.odds.first(node)
            if reach < self._least_reach:
                return chain[:index]
            node = step
        return chain

    def forget_sent(self) -> None:
        """Who gets drafts may have lost them: all of it is news again."""
        waiting = [self._root]
        while waiting:
            node = waiting.pop()
            node.is_sent = False
            waiting += node.children.values()


Step = tuple[int, _Node]
Steps = Sequence[Step]


class _Parts:
    """Branches and grafts of a draft in the making, whose own path begins at ``position``."""

    def __init__(self, own: Steps, position: int) -> None:
        self.branches: list[Branch] = []
        self.grafts: list[Graft] = []
        self._own = own
        self._position = position

    def graft(self, before: Steps, chain: Steps) -> None:
        """``chain``, if there is any, behind ``before``."""
        if chain:
            self.grafts.append(Graft(checksum(_tokens(before)) % KEYS, _tokens(chain), _chances(chain)))

    def other(self, before: Steps, token_ids: Tokens, confidences: tuple[float, ...]) -> None:
        """An alternative behind ``before``: a branch of the draft's own path where that leads there."""
        depth = len(before)
        if depth <= len(self._own) and (before[-1][1] is self._own[depth - 1][1] if before else self._own):
            self.branches.append(Branch(0, self._position + len(before), token_ids, confidences))
        else:
            self.grafts.append(Graft(checksum(_tokens(before)) % KEYS, token_ids, confidences))


def _tokens(steps: Steps) -> Tokens:
    return tuple(token for token, _ in steps)


def _chances(steps: Steps) -> tuple[float, ...]:
    return tuple(node.confidence for _, node in steps)


def _num_sent(steps: Steps) -> int:
    return next((index for index, (_, node) in enumerate(steps) if not node.is_sent), len(steps))


def _mark(steps: Steps) -> None:
    for _, node in steps:
        node.is_sent = True


def _follow(node: _Node) -> list[tuple[int, _Node]]:
    chain = []
    while node.first is not None:
        chain.append((node.first, node.children[node.first]))
        node = chain[-1][1]
    return chain


def _count(root: _Node) -> int:
    count, waiting = 0, [root]
    while waiting:
        node = waiting.pop()
        count += node.first is not None
        waiting += node.children.values()
    return count
