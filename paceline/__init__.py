"""Paceline: serve one large language model from a drafter pool and a verifier pool.

Users import ``paceline.client``; everything else is the library that the three services are made of.
"""

__version__ = "0.1.0"
