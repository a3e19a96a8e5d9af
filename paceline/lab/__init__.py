"""Experiments with whole systems in virtual time: the real code, emulated hardware and links."""
