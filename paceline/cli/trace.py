def trace() -> None:
    """x"""
