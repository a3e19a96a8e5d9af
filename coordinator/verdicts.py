"""What a session says about its drafts to the log of verdicts, when both the operator and the client allow it.

The coordinator sees every draft and every commit, so neither verifiers nor drafters know of this. Never waits.
"""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.requests import Admitted
from paceline.core.errors import InvalidRequest
from paceline.core.types import Commit, Draft
from paceline.core.verdicts import Origin, Verdict
from paceline.speculation.draft_tree import MAX_PATH, DraftTree, check_draft
from paceline.telemetry.verdicts import VerdictSink

CONTEXT = 4096
"""Tokens before the first record of a session that are logged with it at most."""


class SessionVerdicts:
    """Of one session."""

    def __init__(self, sink: VerdictSink, admitted: Admitted) -> None:
        self._sink = sink
        self._admitted = admitted
        self._tree = DraftTree(admitted.prompt)
        self._origin = Origin(admitted.verifier.model_digest, admitted.sampling, admitted.profile)
        self._source = ""
        self._known = -1
        """The file that has this session's context and origin."""

    @property
    def _is_wanted(self) -> bool:
        return self._admitted.allow_learning and self._sink.is_on

    def drafted(self, draft: Draft, source: str) -> None:
        """A draft went to the verifier."""
        if not self._is_wanted:
            return
        try:
            check_draft(draft, self._admitted.verifier.vocab_size)
        except InvalidRequest:
            return  # the verifier says so
        self._tree.add(draft)
        self._source = source

    def committed(self, commit: Commit, output: Sequence[int]) -> None:
        """A step's outcome, right after ``output``."""
        if not self._is_wanted:
            return
        guess = self._tree.path(MAX_PATH).token_ids
        self._tree.advance(commit.token_ids)
        generation, prompt = self._sink.generation, self._admitted.prompt
        is_known = generation == self._known
        verdict = Verdict(
            session=commit.session,
            start=commit.start,
            prompt_length=len(prompt),
            tokens=commit.token_ids,
            draft=guess,
            drafted=commit.drafted,
            accepted=commit.accepted,
            source=self._source,
            tail=() if is_known else (*prompt, *output)[-CONTEXT:],
            origin=None if is_known else self._origin,
        )
        self._known = generation if self._sink.put(verdict) else -1
