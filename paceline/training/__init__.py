"""Drafters from a target: regenerate text with it, learn to guess it, export."""
