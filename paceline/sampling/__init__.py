"""How logits become tokens: the numpy specification that every faster version is tested against.

Notation, the same in every file, test, metric and document:
    p  target probabilities  [k + 1, vocab]     x  drafted tokens  [k]
    q  draft probabilities   [k, vocab]         u  uniforms in [0, 1)
    k  draft length          t  position = index in prompt + output
Pure: no I/O, no clock, no generator with state; noise is a function of (seed, position, token).
"""
