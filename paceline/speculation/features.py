"""What a drafter gets of its target, hidden states or keys and values: rows by position, no gaps, never too many. Pure.

Both ends keep a window of the latest rows. What follows the window is added to it; what does not follow it, after a
loss, begins a new one, since drafters want consecutive positions. Rows are only ever dropped at the old end.
"""

from __future__ import annotations

from collections import deque
from itertools import takewhile

from paceline.core.errors import InvalidRequest
from paceline.core.types import (
    FeatureFrame,
    KvFrame,
    KvShape,
    KvWish,
    Needs,
    StepItem,
    StepOutcome,
    Tap,
    VerifierInfo,
)

MAX_FRAME_BYTES = 2 * 1024 * 1024
"""Of one frame: half of what a message may have, so that it never holds a commit up. Older rows give way."""
BF16_BYTES = 2
ALL_ROWS = 2**32
"""More than any context has."""


def check_rows(frame: FeatureFrame, field: str) -> None:
    """Raise ``InvalidRequest``, naming the field, for a frame that has not the bytes of its rows."""
    if frame.num_rows < 1:
        raise InvalidRequest(f"{field}: a frame has at least one row; leave it away when there is none.")
    if len(frame.bf16) > MAX_FRAME_BYTES:
        raise InvalidRequest(f"{field}: {len(frame.bf16)} bytes are more than {MAX_FRAME_BYTES}; send fewer rows.")
    if not frame.bf16 or len(frame.bf16) % (frame.num_rows * BF16_BYTES):
        raise InvalidRequest(
            f"{field}: {len(frame.bf16)} bytes are not {frame.num_rows} rows of bfloat16 numbers; send whole rows."
        )


def check_frame(frame: FeatureFrame, committed: int) -> None:
    """Raise ``InvalidRequest`` for a frame whose rows are not those of positions below the newest committed token."""
    check_rows(frame, "features")
    if frame.end >= committed:
        raise InvalidRequest(
            f"features: rows reach up to position {frame.end - 1}, but the newest committed token is at "
            f"{committed - 1}, and its row is not computed yet."
        )


def check_kv(frame: KvFrame, shape: KvShape, end: int) -> None:
    """Raise ``InvalidRequest`` for keys and values of another shape, or beyond position ``end``."""
    check_rows(frame.rows, "kv")
    if frame.rows.row_bytes != shape.row_bytes:
        raise InvalidRequest(
            f"kv: rows of {frame.rows.row_bytes} bytes, but keys and values of {shape.num_heads} heads of "
            f"{shape.head_size} numbers have {shape.row_bytes}; use the target that the drafter was made for."
        )
    if frame.rows.end > end:
        raise InvalidRequest(
            f"kv: rows reach up to position {frame.rows.end - 1}, but the session ends before {end}; open it again."
        )


def check_taps(tap: Tap, info: VerifierInfo) -> None:
    """Raise ``InvalidRequest`` for hidden states, keys or values that this verifier can't give."""
    reason = cannot_give(Needs(hidden_states=tap.taps, history=tap.history, kv=tap.kv), info)
    if reason:
        raise InvalidRequest(f"taps: {reason}.")


def cannot_give(needs: Needs, info: VerifierInfo) -> str:
    """Why the verifier can't give what a drafter needs of its target; empty when it can, or nothing is needed."""
    return _no_hidden_states(needs, info) or next(filter(None, (_no_kv(one, info) for one in needs.kv)), "")


def _no_kv(wanted: KvShape, info: VerifierInfo) -> str:
    has = next((one for one in info.kv if one.kind == wanted.kind), None)
    if has is None:
        return f"verifier {info.name} gives no keys and values of {wanted.kind}"
    if (has.num_heads, has.head_size) != (wanted.num_heads, wanted.head_size):
        return (
            f"{wanted.kind} has {has.num_heads} heads of {has.head_size} numbers in verifier {info.name}, not "
            f"{wanted.num_heads} of {wanted.head_size}"
        )
    if wanted.row_bytes > MAX_FRAME_BYTES:
        return f"keys and values of one position of {wanted.kind} have more than {MAX_FRAME_BYTES} bytes"
    return ""


def _no_hidden_states(needs: Needs, info: VerifierInfo) -> str:
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


def between(frame: FeatureFrame, start: int, end: int) -> FeatureFrame:
    """The rows of positions from ``start`` to below ``end``; there is at least one."""
    if (start, end) == (frame.start, frame.end):
        return frame
    size = frame.row_bytes
    return FeatureFrame(start, end - start, frame.bf16[(start - frame.start) * size : (end - frame.start) * size])


def last_rows(frame: FeatureFrame, num_rows: int) -> FeatureFrame:
    """The last ``num_rows`` rows of a frame, or all; as many as one message may carry, and at least one."""
    keep = max(1, min(num_rows, frame.num_rows, MAX_FRAME_BYTES // frame.row_bytes))
    return between(frame, frame.end - keep, frame.end)


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

    def __init__(self, history: int, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self._history = max(1, history)
        self._max_bytes = max_bytes
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
            frame = between(frame, last.end, frame.end)
        self._frames.append(frame)
        self._num_rows += frame.num_rows
        while self._num_rows - self._frames[0].num_rows >= self._limit(frame):
            self._num_rows -= self._frames.popleft().num_rows

    def _limit(self, frame: FeatureFrame) -> int:
        return min(self._history, max(1, self._max_bytes // frame.row_bytes))

    def take(self, end: int | None = None) -> FeatureFrame | None:
        """All rows that were not taken yet, below position ``end``, as one frame."""
        fresh = list(takewhile(lambda frame: frame.end > self._taken, reversed(self._frames)))[::-1]
        if not fresh:
            return None
        until = fresh[-1].end if end is None else min(end, fresh[-1].end)
        start = max(fresh[0].start, self._taken, until - self._limit(fresh[0]))
        if until <= start:
            return None
        self._taken = until
        rows = b"".join(frame.bf16 for frame in fresh) if len(fresh) > 1 else fresh[0].bf16
        return between(FeatureFrame(fresh[0].start, fresh[-1].end - fresh[0].start, rows), start, until)

    def rewind(self) -> None:
        """Rows that are still here may be taken again."""
        self._taken = 0


class KvWindow(FeatureWindow):
    """Of keys and values, of which the older ones are needed too: within one process, so that nothing need give way."""

    def __init__(self, history: int) -> None:
        super().__init__(history or ALL_ROWS, max_bytes=ALL_ROWS * MAX_FRAME_BYTES)

    def add(self, frame: FeatureFrame) -> None:
        """Rows before those that are here are of a new copy: the older one lacked them."""
        if self._frames and frame.start < self._frames[0].start:
            self._frames.clear()
            self._num_rows = self._taken = 0
        super().add(frame)


class KvCursor:
    """At a verifier: which rows of keys and values its drafter has got already."""

    def __init__(self) -> None:
        self._shapes: tuple[KvShape, ...] = ()
        self._sent = 0
        self._wishes: tuple[KvWish, ...] = ()

    def listen(self, shapes: tuple[KvShape, ...]) -> None:
        """From now on these, beginning with all that are of use."""
        self._shapes, self._sent, self._wishes = shapes, 0, ()

    def wishes(self, position: int) -> tuple[KvWish, ...]:
        """For a step of a session with so many committed tokens; the newest one's row is the last that may be new."""
        self._wishes = tuple(
            KvWish(one.kind, max(self._sent, position - 1 - (one.history or ALL_ROWS))) for one in self._shapes
        )
        return self._wishes

    def took(self, item: StepItem, outcome: StepOutcome) -> tuple[KvFrame, ...]:
        """What the step brought of that; nothing where it began before the present drafter listened."""
        if not item.kv or item.kv != self._wishes:
            return ()
        self._sent = item.start + item.num_committed + outcome.accepted
        return outcome.kv
