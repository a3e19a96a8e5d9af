"""Settings: frozen, documented, read once at start."""
