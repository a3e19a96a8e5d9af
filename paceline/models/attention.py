"""Attention over KV slots by tiles: several rows of a session share what is read, and each keeps its own bits.

A row's sums run over the positions from its first to its own, in that order. Where rows are computed together, what a
row may not see adds exact zeros, and only of positions that other rows of the step see.

Of every slot and head, keys lie in tiles of ``LANES`` positions [blocks, d / pair, LANES, pair], values in tiles of
``LANES`` dimensions [tiles, positions / pair, LANES, pair].
"""

from __future__ import annotations

import numba as nb
import numpy as np
from numba import njit, prange

from paceline.models.kernels import ROW, exp, load, store
from paceline.models.linear import SHARED
from paceline.models.tiles import LANES, ROWS, product


@njit(**ROW)
def put_key(keys, position, i, value):
    """One number of a key; keys of a slot and head."""
    pair = keys.shape[3]
    keys[position // LANES, i // pair, position % LANES, i % pair] = value


@njit(**ROW)
def put_value(values, position, i, value):
    """One number of a value."""
    pair = values.shape[3]
    values[i // LANES, position // pair, i % LANES, position % pair] = value


@njit(**ROW)
def _swap(one, position, other, home, d):
    """Exchange two positions; one and other are (keys, values) of a slot and head."""
    keys, values = one
    home_keys, home_values = other
    pair = keys.shape[3]
    for i in range(d):
        key = keys[position // LANES, i // pair, position % LANES, i % pair]
        put_key(keys, position, i, home_keys[home // LANES, i // pair, home % LANES, i % pair])
        put_key(home_keys, home, i, key)
        value = values[i // LANES, position // pair, i % LANES, position % pair]
        put_value(values, position, i, home_values[i // LANES, home // pair, i % LANES, home % pair])
        put_value(home_values, home, i, value)


@njit(**ROW)
def _softmax(s, scale):
    """exp(scale (s - max)) in place; returns 1 / sum."""
    top = s[0]
    for j in range(s.shape[0]):
        top = max(top, s[j])
    total = nb.float32(0)
    for j in range(s.shape[0]):
        e = exp((s[j] - top) * scale)
        s[j] = e
        total += e
    return nb.float32(1) / total


@njit(**ROW)
def _weights(s, weights):
    """Rounded to the type of the values."""
    for j in range(s.shape[0]):
        weights[j] = store(s[j], weights[0])


@njit(**ROW)
def _mix(weights, count, values, first, end, mixed):
    """mixed[:count, :] = weights times values of the positions from first to end; the pair divides both."""
    pair = values.shape[3]
    for tile in range(values.shape[0]):
        sums = mixed[:, tile * LANES : (tile + 1) * LANES]
        if end > first:
            product(count, weights[:, first:], 0, values[tile, first // pair : end // pair], sums)
        else:
            sums[:count] = 0


@njit(**ROW)
def _add_last(weight, values, last, mixed):
    """An odd last position, by itself: what lies beside it belongs to nobody yet."""
    for tile in range(values.shape[0]):
        sums, value = mixed[tile * LANES : (tile + 1) * LANES], values[tile, last // values.shape[3]]
        for n in range(LANES):
            sums[n] += weight * load(value[n, 0])


@njit(**ROW)
def _attend(queries, ends, options, cache, room, out):
    """out [count, d] of queries [count, d] of one slot and KV head; ends [count]: how many positions each sees."""
    window, scale = options
    keys, values = cache
    scores, weights, mixed = room
    count, pair, d = len(ends), values.shape[3], out.shape[1]
    first, most = max(0, ends.min() - window) if window else 0, ends.max()
    first -= first % pair
    whole = most - most % pair
    for block in range(first // LANES, (most + LANES - 1) // LANES):
        product(count, queries, 0, keys[block], scores[:, block * LANES : (block + 1) * LANES])
    inverses = np.empty(count, np.float32)
    for at in range(count):
        end = ends[at]
        start = max(0, end - window) if window else 0
        inverses[at] = _softmax(scores[at, start:end], scale)
        weights[at, first:start] = 0
        _weights(scores[at, start:end], weights[at, start:end])
        weights[at, end - end % pair : whole] = 0
    _mix(weights, count, values, first, whole, mixed)
    for at in range(count):
        end, sums, row = ends[at], mixed[at], out[at]
        if end % pair:
            _add_last(load(store(scores[at, end - 1], weights[0, 0])), values, end - 1, sums)
        for i in range(d):
            row[i] = store(sums[i] * inverses[at], row[0])


@njit(**ROW)
def _attend_rows(q, positions, block, options, memory, out):
    """Rows of one slot, for query heads of one KV head: block = (first and last row, first and last head)."""
    first, last, low, high = block
    cache, room = memory
    width, d = high - low, q.shape[2]
    count = (last - first) * width
    queries, mixed = np.empty((count, d), q.dtype), np.empty((count, d), q.dtype)
    ends = np.empty(count, np.int64)
    for at in range(count):
        queries[at] = q[first + at // width, low + at % width]
        ends[at] = positions[first + at // width] + 1
    _attend(queries, ends, options, cache, room, mixed)
    for at in range(count):
        head = low + at % width
        out[first + at // width, head * d : (head + 1) * d] = mixed[at]


@njit(**SHARED)
def attention(parts, q, caches, turn, options, out):
    """Causal attention of each row over its slot, up to and including its own position.

    q [rows, heads, d]; caches = keys [slots, kv, ...], values; options = (window: positions seen at most, 0 for all;
    scale); out [rows, heads * d]. turn = (slots, positions, slots and positions of homes), each [rows], and firsts: a
    row whose keys and values are not at its place takes it while it attends, so that it sees the very memory that any
    row there sees. Rows firsts[g] to firsts[g + 1] are of one slot and done by one thread.
    """
    keys, values = caches
    (slots, positions, home_slots, home_positions), firsts = turn
    kv, num_groups, d = keys.shape[1], firsts.shape[0] - 1, q.shape[2]
    group = q.shape[1] // kv
    size = (positions.max() // LANES + 1) * LANES
    for part in prange(parts):
        room = (
            np.empty((ROWS, size), np.float32),
            np.empty((ROWS, size), values.dtype),
            np.empty((ROWS, values.shape[2] * LANES), np.float32),
        )
        for unit in range(part, num_groups * kv, parts):
            h, r, end = unit % kv, firsts[unit // kv], firsts[unit // kv + 1]
            while r < end:
                slot, position, home_slot, home = slots[r], positions[r], home_slots[r], home_positions[r]
                own, homes = (keys[slot, h], values[slot, h]), (keys[home_slot, h], values[home_slot, h])
                is_guest = slot != home_slot or position != home
                last = r + 1 if is_guest else min(end, r + max(1, ROWS // group))
                if is_guest:
                    _swap(own, position, homes, home, d)
                for low in range(h * group, (h + 1) * group, ROWS):
                    block = (r, last, low, min(low + ROWS, (h + 1) * group))
                    _attend_rows(q, positions, block, options, (own, room), out)
                if is_guest:
                    _swap(own, position, homes, home, d)
                r = last


@njit(**ROW)
def store_kv(k, v, places, caches):
    """Put keys and values [kv, rows, d] of each row at its slot and position."""
    slots, positions = places
    keys, values = caches
    kv, num_rows, d = k.shape
    for h in range(kv):
        for r in range(num_rows):
            slot, position = slots[r], positions[r]
            for i in range(d):
                put_key(keys[slot, h], position, i, k[h, r, i])
                put_value(values[slot, h], position, i, v[h, r, i])


@njit(**ROW)
def rotate(row, cosine, sine, out):
    """Rotary embedding of a head [d], rounded where ``transformers`` rounds."""
    half = row.shape[0] // 2
    low, high, low_out, high_out = row[:half], row[half:], out[:half], out[half:]
    for i in range(half):
        a, b = load(low[i]), load(high[i])
        low_out[i] = store(load(store(a * cosine[i], row[0])) + load(store(-b * sine[i], row[0])), row[0])
        high_out[i] = store(load(store(b * cosine[half + i], row[0])) + load(store(a * sine[half + i], row[0])), row[0])


@njit(**SHARED)
def rope_and_store(parts, qkv, angles, places, caches, q):
    """Rotate queries into ``q`` [rows, heads, d] and keys into the cache; values go there as they are.

    qkv [rows, (heads + 2 kv) d]; angles = cosine, sine [rows, d]; places = slots, positions [rows].
    """
    cosine, sine = angles
    slots, positions = places
    keys, values = caches
    num_rows, heads, d = q.shape
    kv = keys.shape[1]
    for part in prange(parts):
        rotated = np.empty(d, qkv.dtype)
        for r in range(num_rows * part // parts, num_rows * (part + 1) // parts):
            slot, position, row = slots[r], positions[r], qkv[r]
            for h in range(heads):
                rotate(row[h * d : (h + 1) * d], cosine[r], sine[r], q[r, h])
            for h in range(kv):
                own_keys, own_values = keys[slot, h], values[slot, h]
                rotate(row[(heads + h) * d : (heads + h + 1) * d], cosine[r], sine[r], rotated)
                value = row[(heads + kv + h) * d : (heads + kv + h + 1) * d]
                for i in range(d):
                    put_key(own_keys, position, i, rotated[i])
                    put_value(own_values, position, i, value[i])
