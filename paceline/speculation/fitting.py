"""Which drafter can work for which target, and why not. Pure: of what both say about themselves."""

from __future__ import annotations

from paceline.core.types import DrafterInfo, Tap, VerifierInfo
from paceline.speculation.features import cannot_give


def can_draft(drafter: DrafterInfo, verifier: VerifierInfo) -> bool:
    """The drafter's ids mean the same to the verifier, and it needs nothing that the verifier doesn't send."""
    return not misfit(drafter, verifier)


def misfit(drafter: DrafterInfo, verifier: VerifierInfo) -> str:
    """Why the drafter can't draft for the verifier, and what to do about it; empty when it can."""
    theirs, needed = drafter.tokenizer_digest, verifier.tokenizer_digest
    if theirs != needed and (drafter.needs.same_tokenizer or (theirs and needed)):
        return (
            f"Drafter {drafter.name} has tokenizer {theirs[:12] or 'unknown'}, verifier {verifier.name} "
            f"{needed[:12] or 'unknown'}; use a drafter with the target's tokenizer."
        )
    if drafter.vocab_size > verifier.vocab_size:
        return (
            f"Drafter {drafter.name} has a vocabulary of {drafter.vocab_size} tokens, verifier {verifier.name} one of "
            f"{verifier.vocab_size}; use a drafter with the target's vocabulary."
        )
    made_for = drafter.needs.target_digest
    if made_for and made_for != verifier.model_digest:
        return (
            f"Drafter {drafter.name} was made for the model {made_for[:12]}, verifier {verifier.name} serves "
            f"{verifier.model_digest[:12]}; train one for this target, or use a drafter that fits any."
        )
    reason = "" if drafter.needs.is_optional else cannot_give(drafter.needs, verifier)
    if reason:
        what = "keys and values" if drafter.needs.kv else "hidden states"
        return f"Drafter {drafter.name} needs {what}: {reason}. Or use a drafter that works on token ids."
    return ""


def tap_for(session: str, drafter: DrafterInfo | None, verifier: VerifierInfo | None) -> Tap:
    """What to ask of the session's verifier for its drafter; nothing where either is away, or can do without."""
    if drafter is None or verifier is None or cannot_give(drafter.needs, verifier):
        return Tap(session)
    needs = drafter.needs
    tap = Tap(session, needs.hidden_states, max(needs.history, 1), needs.kv)
    return Tap(session) if tap.is_empty else tap
