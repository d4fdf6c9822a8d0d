"""The exception tree. Every error that a user can cause is one of these, and carries its exit code.

    RSTinyNetError          1  something failed at run time
    ├── UsageError          2  an option or argument that makes no sense
    ├── DataError           3  images, annotations or scenes that cannot be used
    ├── WeightsError        4  a weights file or checkpoint that cannot be used
    └── ExportError         5  an export that failed or did not agree with its model

A message states the rule, the value that broke it, where, and what to do about it.
"""

from __future__ import annotations

from typing import ClassVar


class RSTinyNetError(Exception):
    """Base of all errors raised on purpose by this package."""

    exit_code: ClassVar[int] = 1


class UsageError(RSTinyNetError, ValueError):
    """An argument or option outside its allowed values."""

    exit_code = 2


class DataError(RSTinyNetError):
    """An image, annotation file or scene that is missing, damaged or inconsistent."""

    exit_code = 3


class WeightsError(RSTinyNetError):
    """A weights file or checkpoint that is missing, damaged, unsafe or of another shape."""

    exit_code = 4


class ExportError(RSTinyNetError):
    """An exported model that could not be made or does not equal its source."""

    exit_code = 5
