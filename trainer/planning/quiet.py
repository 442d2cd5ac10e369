"""Silence for what TorchRec says of every plan."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_NOISY = ("torchrec", "MethodLogger-NullHandler", "torch.fx._symbolic_trace")


@contextmanager
def quiet() -> Iterator[None]:
    """TorchRec warns that a topology was made by hand, of every plan that it tried and dropped, and asks torch.fx
    a question that torch.fx warns of."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
