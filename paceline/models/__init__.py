"""Runs causal language models so that a token's logits never depend on what else was in the step."""
