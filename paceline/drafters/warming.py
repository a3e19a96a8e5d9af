"""First calls, made before anybody waits for them: they compile, and are no measure of what a call costs.

Who weighs a drafter's time against what it brings (``speculation.resident``) would else think it hopelessly slow.
"""

from __future__ import annotations

from paceline.core.ports import Drafter
from paceline.core.types import DraftJob, FeatureFrame, KvFrame, SamplingParams, SessionSpec, StopRules

SESSION = "warming up"
LAWS = (SamplingParams(), SamplingParams(temperature=0.8, top_p=0.95))
LENGTH = 6


def warm_up(drafter: Drafter) -> None:
    """Guess for made-up sessions of every kind: greedy and warm, with hidden states (if wanted) and without."""
    info = drafter.info
    context = tuple(token % (info.vocab_size or LENGTH) for token in range(LENGTH))
    for law in LAWS:
        drafter.open(SessionSpec(SESSION, context, LENGTH, law, StopRules(max_tokens=LENGTH)))
        try:
            for features, kv in (((), ()), (_frames(drafter), _kv_frames(drafter))):
                drafter.extend([DraftJob(SESSION, context, LENGTH, info.max_window, features, kv)])
        finally:
            drafter.close(SESSION)


def _frames(drafter: Drafter) -> tuple[FeatureFrame, ...]:
    row = bytes(drafter.info.needs.feature_bytes)
    return (FeatureFrame(0, LENGTH - 1, row * (LENGTH - 1)),) if row else ()


def _kv_frames(drafter: Drafter) -> tuple[KvFrame, ...]:
    return tuple(
        KvFrame(SESSION, shape.kind, FeatureFrame(0, LENGTH - 1, bytes(shape.row_bytes) * (LENGTH - 1)))
        for shape in drafter.info.needs.kv
    )
