"""``paceline bench peers``: other engines on the same prompts, weights, lengths and machine, in one interleaved run.

Every engine is a child process in an environment of its own, asked through a line of JSON and frozen while it isn't
asked, so that engines neither share libraries nor disturb each other. Tokens go in and come out.
"""
