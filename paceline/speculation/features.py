"""Hidden states on their way from a verifier to a drafter: rows by position, without gaps, and never too many. Pure.

Both ends keep a window of the latest rows. What follows the window is added to it; what does not follow it, after a
loss, begins a new one, since drafters want consecutive positions. Rows are only ever dropped at the old end.
"""

from __future__ import annotations

from collections import deque

from paceline.core.errors import InvalidRequest
from paceline.core.types import FeatureFrame, Needs, Tap, VerifierInfo

MAX_FRAME_BYTES = 2 * 1024 * 1024
"""Of one frame: half of what a message may have, so that it never holds a commit up. Older rows give way."""
BF16_BYTES = 2


def check_frame(frame: FeatureFrame, committed: int) -> None:
    """Raise ``InvalidRequest`` for a frame whose rows are not those of positions below the newest committed token."""
    if frame.num_rows < 1:
        raise InvalidRequest("features: a frame has at least one row; leave it away when there is none.")
    if len(frame.bf16) > MAX_FRAME_BYTES:
        raise InvalidRequest(f"features: {len(frame.bf16)} bytes are more than {MAX_FRAME_BYTES}; send fewer rows.")
    if not frame.bf16 or len(frame.bf16) % (frame.num_rows * BF16_BYTES):
        raise InvalidRequest(
            f"features: {len(frame.bf16)} bytes are not {frame.num_rows} rows of bfloat16 numbers; send whole rows."
        )
    if frame.end >= committed:
        raise InvalidRequest(
            f"features: rows reach up to position {frame.end - 1}, but the newest committed token is at "
            f"{committed - 1}, and its row is not computed yet."
        )


def check_taps(tap: Tap, info: VerifierInfo) -> None:
    """Raise ``InvalidRequest`` for hidden states that this verifier can't give."""
    if not tap.taps:
        return
    needs = Needs(hidden_states=tap.taps, history=tap.history)
    reason = cannot_give(needs, info)
    if reason:
        raise InvalidRequest(f"taps: {reason}.")


def cannot_give(needs: Needs, info: VerifierInfo) -> str:
    """Why the verifier can't give the hidden states that a drafter needs; empty when it can, or none are needed."""
    if not needs.hidden_states:
        return ""
    if not info.hidden_size:
        return f"verifier {info.name} gives no hidden states"
    bad = next((tap for tap in needs.hidden_states if tap != -1 and not 0 < tap < info.num_layers), None)
    if bad is not None:
        return f"there is no tap {bad} in verifier {info.name}; use 1 to {info.num_layers - 1}, or -1 for the last"
    if needs.hidden_size not in (0, info.hidden_size):
        return f"hidden states have {info.hidden_size} numbers in verifier {info.name}, not {needs.hidden_size}"
    if len(needs.hidden_states) * info.hidden_size * BF16_BYTES > MAX_FRAME_BYTES:
        return f"{len(needs.hidden_states)} taps make rows of more than {MAX_FRAME_BYTES} bytes; use fewer"
    return ""


def last_rows(frame: FeatureFrame, num_rows: int) -> FeatureFrame:
    """The last ``num_rows`` rows of a frame, or all; as many as one message may carry, and at least one."""
    keep = max(1, min(num_rows, frame.num_rows, MAX_FRAME_BYTES // frame.row_bytes))
    if keep == frame.num_rows:
        return frame
    return FeatureFrame(frame.end - keep, keep, frame.bf16[-keep * frame.row_bytes :])


def join(before: FeatureFrame | None, after: FeatureFrame | None) -> FeatureFrame | None:
    """One frame for both; only ``after`` where it doesn't follow at once."""
    if before is None or after is None:
        return after or before
    if before.end != after.start or before.row_bytes != after.row_bytes:
        return after
    both = FeatureFrame(before.start, before.num_rows + after.num_rows, before.bf16 + after.bf16)
    return last_rows(both, both.num_rows)


class FeatureWindow:
    """The latest ``history`` rows, and which of them were taken already."""

    def __init__(self, history: int) -> None:
        self._history = max(1, history)
        self._frames: deque[FeatureFrame] = deque()
        self._num_rows = 0
        self._taken = 0

    def add(self, frame: FeatureFrame) -> None:
        """Rows that are known already are ignored; rows behind a gap, or of another width, begin anew."""
        last = self._frames[-1] if self._frames else None
        if last is not None and (last.end < frame.start or last.row_bytes != frame.row_bytes):
            self._frames.clear()
            self._num_rows = 0
        elif last is not None and frame.end <= last.end:
            return
        elif last is not None:
            frame = last_rows(frame, frame.end - last.end)
        self._frames.append(frame)
        self._num_rows += frame.num_rows
        limit = min(self._history, max(1, MAX_FRAME_BYTES // frame.row_bytes))
        while self._num_rows - self._frames[0].num_rows >= limit:
            self._num_rows -= self._frames.popleft().num_rows

    def take(self) -> FeatureFrame | None:
        """All rows that were not taken yet, as one frame."""
        fresh = [frame for frame in self._frames if frame.end > self._taken]
        if not fresh:
            return None
        self._taken = fresh[-1].end
        num_rows = sum(frame.num_rows for frame in fresh)
        whole = FeatureFrame(fresh[0].start, num_rows, b"".join(frame.bf16 for frame in fresh))
        return last_rows(whole, self._history)

    def rewind(self) -> None:
        """Rows that are still here may be taken again."""
        self._taken = 0
