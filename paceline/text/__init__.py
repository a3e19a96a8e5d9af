"""Tokenizers, chat templates, incremental text and stop strings; no torch here."""
