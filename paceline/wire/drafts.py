"""Drafts on the wire: tokens in columns, a byte per confidence. They are the bulk of what a session sends.

A confidence is rounded to a sixteenth of its log-odds, 6 % of the odds: what it decides, what to check first and how
much of it, is learned from outcomes anyway. What was decoded is encoded to the same bytes again.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import TypeVar

from paceline.core.errors import InvalidRequest
from paceline.core.types import Branch, Draft, Graft, Tokens
from paceline.v1 import tokens_pb2
from paceline.wire.codec import refuse, session_id

STEPS, MIDDLE, TOP = 16, 128, 255
"""Levels per unit of log-odds; the level of even odds; the highest one. Level 0 is no estimate."""
CHANCES = (0.0, *(1.0 / (1.0 + math.exp((MIDDLE - level) / STEPS)) for level in range(1, TOP + 1)))
"""By level."""
_LEAST_ODDS, _MOST_ODDS = (math.exp((level - MIDDLE) / STEPS) for level in (1, TOP))

ItemT = TypeVar("ItemT")


def level_of(chance: float) -> int:
    """Of a confidence between 0 and 1."""
    odds = math.inf if chance >= 1.0 else chance / (1.0 - chance)
    if not odds > _LEAST_ODDS:  # nor if it is no number
        return 1
    return TOP if odds >= _MOST_ODDS else round(MIDDLE + STEPS * math.log(odds))


def draft_to_pb(draft: Draft) -> tokens_pb2.Draft:
    """A guess."""
    parts: tuple[Draft | Branch | Graft, ...] = (draft, *draft.branches, *draft.grafts)
    levels = bytes(chain.from_iterable(_levels(part) for part in parts))
    message = tokens_pb2.Draft(
        session_id=draft.session, base=draft.base, token_ids=draft.token_ids, confidences=levels if any(levels) else b""
    )
    if draft.branches:
        message.branches.CopyFrom(_branches_to_pb(draft))
    if draft.grafts:
        message.grafts.CopyFrom(_grafts_to_pb(draft.grafts))
    return message


def _levels(part: Draft | Branch | Graft) -> Iterator[int]:
    return map(level_of, part.confidences) if part.confidences else iter(bytes(len(part.token_ids)))


def _branches_to_pb(draft: Draft) -> tokens_pb2.Branches:
    branches = draft.branches
    return tokens_pb2.Branches(
        parents=[branch.parent for branch in branches] if any(branch.parent for branch in branches) else (),
        offsets=[branch.position - draft.base for branch in branches],
        lengths=_lengths(branches),
        token_ids=[token for branch in branches for token in branch.token_ids],
    )


def _grafts_to_pb(grafts: Sequence[Graft]) -> tokens_pb2.Grafts:
    return tokens_pb2.Grafts(
        after=struct.pack(f"<{len(grafts)}H", *(graft.after for graft in grafts)),
        lengths=_lengths(grafts),
        token_ids=[token for graft in grafts for token in graft.token_ids],
    )


def _lengths(parts: Sequence[Branch | Graft]) -> list[int]:
    found = [len(part.token_ids) for part in parts]
    return found if any(length != 1 for length in found) else []


def draft_from_pb(message: tokens_pb2.Draft) -> Draft:
    """Consistency with the vocabulary and between fields is checked by ``speculation.draft_tree``."""
    refuse(message, "distributions")
    num_tokens = len(message.token_ids) + len(message.branches.token_ids) + len(message.grafts.token_ids)
    levels = message.confidences
    if levels and len(levels) != num_tokens:
        raise InvalidRequest(f"confidences: {len(levels)} bytes for {num_tokens} tokens; send one per token, or none.")
    left = iter(levels)
    return Draft(
        session=session_id(message),
        base=message.base,
        token_ids=tuple(message.token_ids),
        confidences=_chances(islice(left, len(message.token_ids))),
        branches=tuple(_branches(message, left)),
        grafts=tuple(_grafts(message.grafts, left)),
    )


def _chances(levels: Iterator[int]) -> tuple[float, ...]:
    found = tuple(levels)
    return tuple(CHANCES[level] for level in found) if any(found) else ()


def _branches(message: tokens_pb2.Draft, levels: Iterator[int]) -> Iterator[Branch]:
    columns = message.branches
    parents = columns.parents or (0,) * len(columns.offsets)
    _require_same("branches.parents", len(parents), len(columns.offsets))
    parts = _cut(columns.token_ids, columns.lengths, len(columns.offsets), "branches")
    for parent, offset, token_ids in zip(parents, columns.offsets, parts, strict=True):
        yield Branch(parent, message.base + offset, token_ids, _chances(islice(levels, len(token_ids))))


def _grafts(columns: tokens_pb2.Grafts, levels: Iterator[int]) -> Iterator[Graft]:
    if len(columns.after) % 2:
        raise InvalidRequest(f"grafts.after: {len(columns.after)} bytes; send two per graft.")
    places = [after for (after,) in struct.iter_unpack("<H", columns.after)]
    for after, token_ids in zip(places, _cut(columns.token_ids, columns.lengths, len(places), "grafts"), strict=True):
        yield Graft(after, token_ids, _chances(islice(levels, len(token_ids))))


def _cut(token_ids: Sequence[int], lengths: Sequence[int], count: int, field: str) -> list[Tokens]:
    """The tokens of each of ``count`` parts."""
    sizes = lengths or (1,) * count
    _require_same(f"{field}.lengths", len(sizes), count)
    _require_same(f"{field}.token_ids", len(token_ids), sum(sizes))
    left = iter(token_ids)
    return [tuple(islice(left, size)) for size in sizes]


def _require_same(field: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise InvalidRequest(f"{field}: {found} entries where the other columns make {wanted}; send columns that fit.")
