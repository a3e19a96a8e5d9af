"""Suffix matching (SuffixDecoding, Oliaro et al., 2024): every earlier place that ends like the context now does votes.

Places are found by their last two tokens, or by the last one where no two agree, and weighted by how long they agree
with the context; the draft follows the majority, with its share of the votes as confidence, and names the outvoted as
second choices. One index per session, others shared: a corpus, and what finished sessions said when that is wanted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from paceline.core.types import Branch, DrafterInfo, DraftJob, Guess, SessionSpec
from paceline.drafters.advice import Advice
from paceline.drafters.seats import require_seat

LONGEST = 32
"""Agreement is measured up to this many tokens."""
NUM_PLACES = 48
"""Latest places that vote, per index."""
NUM_WEAK_PLACES = 16
"""The same where only one token agrees: more would be its overall habits, which change within a text."""
DOUBT = 0.3
"""Over the root of the agreement: how often unanimous places were wrong, as measured on what SmolLM2-135M says."""
LAW_DOUBT = 0.85
"""The same where the votes are advice, a law to be mixed with another's. A round form that lies near the weights that
likelihood gave per length of agreement, and draws no worse."""
MIN_REACH = 0.01
"""The draft ends where the chance that all of it is right falls below this."""
MIN_BRANCH = 0.03
"""Second choices that are needed less often than this are not worth a row."""
MAX_LEARNED = 1_000_000
"""Tokens of finished sessions kept at most."""
TOKEN_BYTES = 120
"""Memory of a token in an index, as measured on texts of 500 to 20,000 tokens (113 to 129)."""
END = -1
"""Ends a document in a shared index; no context has it, no draft goes past it."""


class SuffixIndex:
    """Places in a growing text by the two tokens before them, and by the last one alone."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._places: dict[tuple[int, int], list[int]] = {}
        self._weak_places: dict[int, list[int]] = {}

    def grow(self, tokens: Iterable[int]) -> None:
        """Append ``tokens``."""
        text = self.tokens
        for token in tokens:
            if text:
                self._weak_places.setdefault(text[-1], []).append(len(text))
            if len(text) >= 2:
                self._places.setdefault((text[-2], text[-1]), []).append(len(text))
            text.append(token)

    def add(self, document: Iterable[int]) -> None:
        """Append a text that has nothing to do with those before it."""
        self.grow(document)
        self.tokens.append(END)

    def places(self, context: Sequence[int]) -> list[tuple[int, int]]:
        """(place, agreement) of the latest places whose two last tokens are the context's."""
        found = self._places.get((context[-2], context[-1]), ()) if len(context) >= 2 else ()
        return [(place, self._agreement(place, context)) for place in found[-NUM_PLACES:]]

    def weak_places(self, context: Sequence[int]) -> list[tuple[int, int]]:
        """The same for places that have only the last token in common."""
        found = self._weak_places.get(context[-1], ()) if context else ()
        return [(place, 1) for place in found[-NUM_WEAK_PLACES:]]

    def _agreement(self, place: int, context: Sequence[int]) -> int:
        text, length = self.tokens, 2
        longest = min(LONGEST, place, len(context))
        while length < longest and text[place - 1 - length] == context[-1 - length]:
            length += 1
        return length


@dataclass(slots=True)
class _Voter:
    text: list[int]
    place: int
    agreement: int


def follow(voters: list[_Voter], longest: int, job: DraftJob, fan_out: int) -> Guess:
    """Walk along with the majority; confidences are given the tokens before. At most ``fan_out`` branches per place."""
    tokens: list[int] = []
    confidences: list[float] = []
    branches: list[Branch] = []
    reach = 1.0
    while voters and len(tokens) < job.max_tokens:
        shares = _shares(voters, 1.0 - DOUBT / math.sqrt(longest + len(tokens)))
        best = max(shares, key=lambda token: (shares[token], -token))
        confidence = shares.pop(best)
        if reach * confidence < MIN_REACH:
            break
        if shares:
            branches += _outvoted(shares, reach, len(job.context) + len(tokens), fan_out)
        reach *= confidence
        tokens.append(best)
        confidences.append(confidence)
        voters = [
            _Voter(voter.text, voter.place + 1, min(voter.agreement + 1, LONGEST))
            for voter in voters
            if voter.text[voter.place] == best and _goes_on(voter)
        ]
    return Guess(job.session, tuple(tokens), tuple(confidences), tuple(branches))


def _shares(voters: Sequence[_Voter], trust: float) -> dict[int, float]:
    """Of the votes, by token, times the trust in all of them."""
    votes = _votes(voters)
    # One vote of weight 1 against: a single place that agrees in few tokens is trusted little.
    total = sum(votes.values()) + 1.0
    return {token: weight / total * trust for token, weight in votes.items()}


def _votes(voters: Sequence[_Voter]) -> dict[int, float]:
    votes: dict[int, float] = {}
    for voter in voters:
        token = voter.text[voter.place]
        # Squared: few long agreements outweigh many short ones.
        votes[token] = votes.get(token, 0.0) + voter.agreement**2
    return votes


def _outvoted(shares: Mapping[int, float], reach: float, position: int, fan_out: int) -> Iterator[Branch]:
    """Second choices, the surest first; equal ones by id, as first choices are."""
    for token in sorted(shares, key=lambda token: (-shares[token], token))[:fan_out]:
        if reach * shares[token] >= MIN_BRANCH:
            yield Branch(0, position, (token,), (shares[token],))


def _longest(voters: Sequence[_Voter]) -> int:
    return max((voter.agreement for voter in voters), default=0)


def _goes_on(voter: _Voter) -> bool:
    following = voter.place + 1
    return following < len(voter.text) and voter.text[following] != END


@dataclass(frozen=True, slots=True)
class _Session:
    index: SuffixIndex
    prompt_length: int
    fan_out: int


class SuffixDrafter:
    """``core.ports.Drafter`` without a model."""

    def __init__(
        self,
        max_sessions: int,
        documents: Iterable[Sequence[int]] = (),
        *,
        tokenizer_digest: str = "",
        learns: bool = False,
    ) -> None:
        self._learns = learns
        self._corpus, self._older, self._newer = SuffixIndex(), SuffixIndex(), SuffixIndex()
        for document in documents:
            self._corpus.add(document)
        self.info = DrafterInfo(
            name="suffix",
            max_sessions=max_sessions,
            tokenizer_digest=tokenizer_digest,
            weights_bytes=TOKEN_BYTES * len(self._corpus.tokens),
        )
        self._sessions: dict[str, _Session] = {}

    def open(self, spec: SessionSpec) -> None:
        """Index the context."""
        require_seat(self._sessions, self.info)
        index = SuffixIndex()
        index.grow(spec.context)
        self._sessions[spec.session] = _Session(index, spec.prompt_length, spec.fan_out)

    def close(self, session: str) -> None:
        """Forget it, or learn from its output first when that is wanted."""
        known = self._sessions.pop(session, None)
        output = known.index.tokens[known.prompt_length :] if known is not None and self._learns else []
        if not output:
            return
        self._newer.add(output)
        if len(self._newer.tokens) >= MAX_LEARNED // 2:
            self._older, self._newer = self._newer, SuffixIndex()

    def state_bytes(self) -> int:
        """Estimated from the number of tokens, those of finished sessions included."""
        own = (one.index for one in self._sessions.values())
        return TOKEN_BYTES * sum(len(one.tokens) for one in (self._older, self._newer, *own))

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        """Let every similar place vote."""
        return [self._extend(job) for job in jobs]

    def advise(self, job: DraftJob, context: Sequence[int]) -> Advice | None:
        """The votes on what follows ``context``, trusted the more the longer places agree with it."""
        session = self._sessions.get(job.session)
        voters = self._voters(session, job, context) if session is not None else []
        if not voters:
            return None
        votes = _votes(voters)
        trust = 1.0 - LAW_DOUBT / math.sqrt(_longest(voters))
        total = sum(votes.values())
        return Advice(tuple(votes), tuple(trust * weight / total for weight in votes.values()))

    def _extend(self, job: DraftJob) -> Guess:
        session = self._sessions[job.session]
        voters = self._voters(session, job, job.context)
        return follow(voters, _longest(voters), job, session.fan_out)

    def _voters(self, session: _Session, job: DraftJob, context: Sequence[int]) -> list[_Voter]:
        """Places in what is committed, and in other texts, that end like ``context``."""
        own = session.index
        own.grow(job.context[len(own.tokens) : job.committed])
        indexes = (own, self._corpus, self._older, self._newer)
        found = [_Voter(index.tokens, *place) for index in indexes for place in index.places(context)]
        if found:
            return found
        return [_Voter(index.tokens, *place) for index in indexes for place in index.weak_places(context)]
