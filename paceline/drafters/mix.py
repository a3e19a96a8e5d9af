"""Several drafters as one: each guesses, and what has been right so far decides whose tokens are sent.

A part that refuses a session, or fails, is left out for that session; the session goes on with the others.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from paceline.core.errors import InvalidRequest, PacelineError, ResourceExhausted
from paceline.core.ports import Drafter
from paceline.core.types import DrafterInfo, DraftJob, Guess, KvShape, Needs, SessionSpec
from paceline.drafters.advice import Advised, Adviser
from paceline.drafters.seats import require_seat
from paceline.speculation.merging import Merger, Opinion
from paceline.speculation.trust import SessionTrust, SharedTrust

_log = logging.getLogger(__name__)

NAME = "mix"
MOST_PARTS = 8
"""More would only ask the same text again."""


def part_names(spec: str, default: Sequence[str]) -> tuple[str, ...]:
    """Of ``mix:suffix,ngram`` (or ``mix:suffix+ngram`` where commas mean something else), or ``default`` for ``mix``.

    Raises ``InvalidRequest`` for fewer than two names, the same one twice, or a mix inside a mix.
    """
    _, colon, text = spec.partition(":")
    names = tuple(name.strip() for name in re.split(r"[,+]", text)) if colon else tuple(default)
    if any(name.partition(":")[0] == NAME for name in names):
        raise InvalidRequest("drafter: a mix can't be part of a mix; name its parts themselves.")
    if not 2 <= len(names) <= MOST_PARTS or len(set(names)) < len(names):
        raise InvalidRequest(
            f"drafter: {spec!r} names {len(names)} parts; a mix needs 2 to {MOST_PARTS} different drafters, "
            "as in mix:suffix,ngram."
        )
    return names


@dataclass(slots=True)
class _Session:
    merger: Merger
    parts: list[int]
    """Numbers of the parts that take part."""


class MixDrafter:
    """``core.ports.Drafter`` over others that it owns; raises ``InvalidRequest`` for parts that don't fit together."""

    def __init__(self, parts: Sequence[Drafter]) -> None:
        self._parts = tuple(parts)
        self.info = _merged([part.info for part in parts])
        self._shared = SharedTrust()
        self._sessions: dict[str, _Session] = {}
        self._adviser = _introduce(self._parts)

    def open(self, spec: SessionSpec) -> None:
        """At every part; raises the first refusal when all refuse."""
        require_seat(self._sessions, self.info)
        refusals: list[PacelineError] = []
        opened: list[int] = []
        for number, part in enumerate(self._parts):
            try:
                part.open(spec)
                opened.append(number)
            except PacelineError as error:
                refusals.append(error)
                _log.warning("part refused", extra={**self._where(number, spec.session), "reason": str(error)})
            except Exception:
                self._left_out(number, spec.session)
        if not opened:
            raise refusals[0] if refusals else ResourceExhausted("Every part of the mix failed; its log says why.")
        merger = Merger(SessionTrust(self._shared), len(spec.context))
        self._sessions[spec.session] = _Session(merger, opened)

    def close(self, session: str) -> None:
        """At every part that still has it."""
        known = self._sessions.pop(session, None)
        for number in known.parts if known is not None else ():
            try:
                self._parts[number].close(session)
            except Exception:
                _log.exception("part failed to close", extra=self._where(number, session))

    def state_bytes(self) -> int:
        """Of all parts."""
        return sum(part.state_bytes() for part in self._parts)

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        """Ask each part once for all its sessions, then merge per session."""
        for job in jobs:
            self._sessions[job.session].merger.advance(job)
        opinions: dict[str, list[Opinion]] = {job.session: [] for job in jobs}
        for number in sorted(range(len(self._parts)), key=lambda number: number == self._adviser):
            asked = [job for job in jobs if self._is_asked(number, job.session, opinions[job.session])]
            for guess in self._ask(number, asked):
                opinions[guess.session].append(Opinion(number, guess))
        return [self._merged(job, opinions[job.session]) for job in jobs]

    def _is_asked(self, number: int, session: str, opinions: Sequence[Opinion]) -> bool:
        """An adviser is not where its advice is in another's guess already."""
        heard = number == self._adviser and any(
            isinstance(part := self._parts[one.source], Advised) and part.heeds(session) and one.guess.token_ids
            for one in opinions
        )
        return number in self._sessions[session].parts and not heard

    def _merged(self, job: DraftJob, opinions: Sequence[Opinion]) -> Guess:
        """What a single one guesses is left as it is."""
        if len(opinions) == 1:
            return opinions[0].guess
        return self._sessions[job.session].merger.merge(job, opinions)

    def _ask(self, number: int, jobs: Sequence[DraftJob]) -> Sequence[Guess]:
        """What a part guesses; after a failure one by one, so that only sessions that fail lose it."""
        part = self._parts[number]
        if not part.info.needs.hidden_states:
            jobs = [replace(job, features=()) if job.features else job for job in jobs]
        if not part.info.needs.kv:
            jobs = [replace(job, kv=()) if job.kv else job for job in jobs]
        if not jobs:
            return ()
        try:
            return _checked(jobs, part.extend(jobs))
        except Exception:
            if len(jobs) > 1:
                return [guess for job in jobs for guess in self._ask(number, [job])]
            self._leave(number, jobs[0].session)
            return ()

    def _leave(self, number: int, session: str) -> None:
        """In an exception handler."""
        self._left_out(number, session)
        self._sessions[session].parts.remove(number)

    def _left_out(self, number: int, session: str) -> None:
        _log.exception("part failed, left out of this session", extra=self._where(number, session))
        try:
            self._parts[number].close(session)
        except Exception:
            _log.exception("part failed to close", extra=self._where(number, session))

    def _where(self, number: int, session: str) -> dict[str, object]:
        return {"part": self._parts[number].info.name, "session": session}


def _introduce(parts: Sequence[Drafter]) -> int | None:
    """Those that take advice to the first that gives it, whose number it returns."""
    for number, adviser in enumerate(parts):
        if isinstance(adviser, Adviser):
            for part in parts:
                if isinstance(part, Advised):
                    part.listen_to(adviser)
            return number
    return None


def _checked(jobs: Sequence[DraftJob], guesses: Sequence[Guess]) -> Sequence[Guess]:
    """Raises ``ValueError`` for guesses that break the port's contract."""
    for job, guess in zip(jobs, guesses, strict=True):
        if guess.session != job.session or len(guess.token_ids) > job.max_tokens:
            raise ValueError("a guess is for another session or longer than asked for")
        if len(guess.confidences) not in (0, len(guess.token_ids)):
            raise ValueError("a guess has not one confidence per token")
    return guesses


def _merged(infos: Sequence[DrafterInfo]) -> DrafterInfo:
    models = {info.model_digest for info in infos if info.model_digest}
    tokenizers = {info.tokenizer_digest: info.name for info in infos if info.tokenizer_digest}
    if len(tokenizers) > 1:
        names = " and ".join(tokenizers.values())
        raise InvalidRequest(f"drafter: {names} have different tokenizers; mix drafters of one target.")
    return DrafterInfo(
        name=f"{NAME}({', '.join(info.name for info in infos)})",
        model_digest=models.pop() if len(models) == 1 else "",
        tokenizer_digest=next(iter(tokenizers), ""),
        vocab_size=max(info.vocab_size for info in infos),
        needs=_merged_needs(infos),
        max_sessions=min(info.max_sessions for info in infos),
        max_window=max(info.max_window for info in infos),
        weights_bytes=sum(info.weights_bytes for info in infos),
    )


def _merged_needs(infos: Sequence[DrafterInfo]) -> Needs:
    """Hidden states of one part, or of several that tap the same layers: a frame carries one set of them."""
    tapping = [info for info in infos if info.needs.hidden_states]
    needy = [info for info in infos if info.needs.hidden_states or info.needs.kv]
    if len({info.needs.hidden_states for info in tapping}) > 1:
        names = " and ".join(f"{info.name} {info.needs.hidden_states}" for info in tapping)
        raise InvalidRequest(f"drafter: {names} tap different layers, and one frame can't serve both; mix one of them.")
    return replace(
        tapping[0].needs if tapping else Needs(),
        history=max(info.needs.history for info in infos),
        same_tokenizer=any(info.needs.same_tokenizer for info in infos),
        is_optional=bool(needy) and all(info.needs.is_optional for info in needy),
        target_digest=_only([info.needs.target_digest for info in infos]),
        kv=_needed_kv(infos),
    )


def _needed_kv(infos: Sequence[DrafterInfo]) -> tuple[KvShape, ...]:
    """Of the parts that need any. Raises ``InvalidRequest`` when these look at different keys and values."""
    needed = {info.needs.kv for info in infos if info.needs.kv}
    if len(needed) > 1:
        raise InvalidRequest("drafter: parts of this mix look at different keys and values; mix one of them.")
    return next(iter(needed), ())


def _only(digests: Sequence[str]) -> str:
    """The target that parts were made for. Raises ``InvalidRequest`` when they were made for different ones."""
    named = {digest for digest in digests if digest}
    if len(named) > 1:
        raise InvalidRequest("drafter: parts of this mix were made for different targets; mix drafters of one target.")
    return next(iter(named), "")
