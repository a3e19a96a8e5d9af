"""The other side of ``paceline.cli.peers.children``: scripts that run in the environment of the engine they drive.

``answering.py`` is started with the name of a module beside it. That module has ``load(order)``, which returns what was
loaded and a function that generates. None of them imports Paceline: its packages aren't there.

A line in, a line out, in turns, until the input ends:

    {"verb": "load", "model", "mode", "threads", "streams", "max_context", "weights", "bits_per_weight", "assistant"}
        -> {"engine", "weights", "bits_per_weight", "max_streams"}
    {"verb": "generate", "prompts": [[id, ...], ...], "max_tokens"}
        -> {"outputs": [[id, ...], ...], "seconds", "steps"}
    whatever goes wrong
        -> {"error": "a sentence"}

Decoding is greedy and goes on past the end of a text, so that everybody generates the same number of tokens.
``steps`` are passes of the model summed over prompts, the one that reads the prompt included; null when unknown.
"""
