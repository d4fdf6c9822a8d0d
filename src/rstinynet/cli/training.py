"""What `train` and `ablate` do alike before they begin."""

from __future__ import annotations


def log_to_stderr() -> None:
    """Show what is logged from INFO on, without times and places, on stderr."""
    import logging

    from rich.console import Console
    from rich.logging import RichHandler

    logging.basicConfig(
        level=logging.INFO,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False, show_time=False)],
    )


def best_device() -> str:
    """A GPU where torch sees one, else the processor."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
