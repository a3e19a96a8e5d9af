"""A session as its verifier sees it, pure: which rows to run next, and what an outcome means.

Called by the verifier's loop only; commits that it returns are contiguous and final.
"""

from __future__ import annotations

from paceline.core.errors import InvalidRequest, invariant
from paceline.core.types import (
    Alternative,
    Commit,
    Credit,
    Draft,
    FeatureFrame,
    FinishReason,
    KvFrame,
    SessionSpec,
    StepItem,
    StepOutcome,
    StepTimings,
    Tap,
    Tokens,
)
from paceline.speculation.alternatives import AlternativeLearner
from paceline.speculation.draft_length import AcceptanceLearner
from paceline.speculation.draft_tree import DraftTree, Path, check_draft
from paceline.speculation.features import FeatureWindow, KvCursor
from paceline.speculation.profiles import PRIORS
from paceline.speculation.waiting import DraftArrivals


class _Listener:
    """A drafter that wants hidden states, and those that it has not got yet."""

    def __init__(self) -> None:
        self.taps: tuple[Tap, ...] = ()
        self.window = FeatureWindow(0)
        self.kv = KvCursor()

    def listen(self, tap: Tap) -> None:
        """The same tap again only begins anew."""
        self.kv.listen(tap.kv)
        if (tap,) == self.taps:
            self.window.rewind()
        else:
            self.taps, self.window = (tap,) if tap.taps else (), FeatureWindow(tap.history)


class VerifierSession:
    """One session; ``max_context`` and ``vocab_size`` are the model's."""

    def __init__(self, spec: SessionSpec, *, max_context: int, vocab_size: int) -> None:
        _check(spec, max_context, vocab_size)
        self.spec = spec
        self.acceptance = AcceptanceLearner(PRIORS[spec.profile])
        self.seconds = AlternativeLearner()
        self.arrivals = DraftArrivals()
        self.finish: FinishReason | None = None
        self._vocab_size = vocab_size
        self._max_tokens = min(spec.stops.max_tokens, max_context - spec.prompt_length)
        self._stop_ids = frozenset(spec.stops.stop_token_ids)
        self._tokens = list(spec.context)
        self._cached = 0
        self._tree = DraftTree(spec.context)
        self._credit: int | None = None
        self._item: StepItem | None = None
        self._path = Path()
        self._remote = _Listener()
        self._resident = _Listener()
        self._kv: tuple[KvFrame, ...] = ()

    @property
    def session(self) -> str:
        """Its id."""
        return self.spec.session

    @property
    def position(self) -> int:
        """Number of committed tokens."""
        return len(self._tokens)

    @property
    def num_pending(self) -> int:
        """Committed tokens whose KV is missing; at least 1 until the session has ended."""
        return len(self._tokens) - self._cached

    @property
    def is_ready(self) -> bool:
        """It may take part in the next step."""
        return self.finish is None and (self._credit is None or self.position < self._credit)

    def add(self, draft: Draft) -> int:
        """Keep the useful part of a guess, return how many new tokens that is. Raises ``InvalidRequest``."""
        check_draft(draft, self._vocab_size)
        return self._tree.add(draft) if self.spec.max_draft else 0

    def grant(self, credit: Credit) -> None:
        """The other side can take tokens up to here."""
        self._credit = max(self._credit or 0, credit.until)

    def tap(self, tap: Tap) -> None:
        """Commits bring these hidden states from now on; asked again, they begin with what is still there."""
        self._remote.listen(tap)

    def listen(self, tap: Tap) -> None:
        """The same for a drafter in this process, which ``heard`` serves."""
        self._resident.listen(tap)

    def heard(self) -> FeatureFrame | None:
        """Rows that were not handed out yet."""
        return self._resident.window.take()

    def take_kv(self) -> tuple[KvFrame, ...]:
        """Keys and values that the step brought for the drafter elsewhere; none once the session has ended."""
        frames, self._kv = self._kv, ()
        return () if self.finish else frames

    def path(self) -> Path:
        """The drafts that the next step could check."""
        return self._tree.path(self.max_path)

    @property
    def max_path(self) -> int:
        """Drafts that the next step could check at most."""
        return max(0, min(self.spec.max_draft, self._room - 1))

    @property
    def _room(self) -> int:
        """Tokens that may still be committed now."""
        left = self.spec.prompt_length + self._max_tokens - self.position
        return left if self._credit is None else min(left, self._credit - self.position)

    def rows(self, max_rows: int, num_draft: int, alternatives: tuple[Alternative, ...] = ()) -> StepItem:
        """The session's share of the next step: missing committed tokens first, then ``num_draft`` drafts.

        ``alternatives`` are those of ``path().others`` that have rows too.
        """
        invariant(self.is_ready and max_rows > 0, "rows are only asked of a session that is ready")
        pending = tuple(self._tokens[self._cached : self._cached + max_rows])
        is_last = len(pending) == self.num_pending
        self._path = self._tree.path(min(num_draft, self._room - 1)) if is_last else Path()
        self._item = StepItem(
            session=self.session,
            start=self._cached,
            tokens=pending + self._path.token_ids,
            num_draft=len(self._path),
            alternatives=tuple(one for one in alternatives if one.index < len(self._path)),
            sample=is_last,
            taps=tuple(dict.fromkeys((*self._remote.taps, *self._resident.taps))),
            kv=self._remote.kv.wishes(self.position),
        )
        return self._item

    def apply(self, outcome: StepOutcome, timings: StepTimings) -> Commit | None:
        """Commit what the target said; None for a chunk of prefill."""
        item, self._item = self._item, None
        self._keep_features(item, outcome)
        if item is None or not item.sample:
            self._cached += len(item.tokens) if item else 0
            return None
        self._learn(outcome.token_ids)
        tokens, finish = self._cut(outcome.token_ids)
        start = self.position
        self._tokens += tokens
        self._cached = min(start + outcome.accepted, self.position - 1)
        self._tree.advance(tokens)
        self.finish = finish
        return Commit(
            session=self.session,
            start=start,
            token_ids=tokens,
            drafted=item.num_checked,
            accepted=outcome.accepted,
            finish=finish,
            timings=timings,
            features=None if finish else self._remote.window.take(),
        )

    def _keep_features(self, item: StepItem | None, outcome: StepOutcome) -> None:
        """A step that began before the tap brings nothing, or what was wanted before."""
        self._kv = self._remote.kv.took(item, outcome) if item else ()
        for tap, frame in zip(item.taps if item else (), outcome.features, strict=False):
            for listener in (self._remote, self._resident):
                if tap in listener.taps:
                    listener.window.add(frame)

    def _learn(self, said: Tokens) -> None:
        """From all drafts that lie where the target has spoken: one more than were checked, if those were right."""
        judged = self.path().first(len(said))
        if not judged:
            self.acceptance.relax()
            return
        right = judged.count_right(said)
        self.acceptance.observe(judged, right)
        if right < len(judged):
            self.seconds.observe(judged, right, said[right])

    def _cut(self, token_ids: Tokens) -> tuple[Tokens, FinishReason | None]:
        """Nothing after a stop id or the limit is committed."""
        invariant(0 < len(token_ids) <= self._room, "a step commits at least one token and no more than there is room")
        for index, token in enumerate(token_ids, start=1):
            if token in self._stop_ids:
                return token_ids[:index], FinishReason.STOP
        is_full = self.position + len(token_ids) >= self.spec.prompt_length + self._max_tokens
        return token_ids, FinishReason.LENGTH if is_full else None


def _check(spec: SessionSpec, max_context: int, vocab_size: int) -> None:
    if not spec.context or not 0 < spec.prompt_length <= len(spec.context):
        raise InvalidRequest("context: it needs at least one token, and prompt_length must lie inside it.")
    if len(spec.context) >= max_context:
        raise InvalidRequest(
            f"context: {len(spec.context)} tokens leave no room in the model's context of {max_context}; shorten it."
        )
    bad = next((token for token in spec.context if not 0 <= token < vocab_size), None)
    if bad is not None:
        raise InvalidRequest(f"context: token id {bad} is outside the vocabulary of {vocab_size}; check the tokenizer.")
    if spec.stops.max_tokens <= len(spec.context) - spec.prompt_length:
        raise InvalidRequest("max_tokens: the context already holds that many output tokens; ask for more.")
    if not 0 <= spec.max_draft <= 256:
        raise InvalidRequest(f"max_draft: {spec.max_draft} is not between 0 and 256.")
    if not 0 <= spec.min_draft <= spec.max_draft:
        raise InvalidRequest(f"min_draft: {spec.min_draft} is not between 0 and max_draft, {spec.max_draft}.")
