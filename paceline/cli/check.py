def check_lossless() -> None:
    """x"""
