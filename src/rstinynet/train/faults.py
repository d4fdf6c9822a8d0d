"""What a run says about faults of its disk, its images and its numbers, and how to go on."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rstinynet.errors import DataError, RSTinyNetError
from rstinynet.train import checkpoint

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def saving(run: Path) -> Iterator[None]:
    """Turn a failed write into an RSTinyNetError that says what is left and how to go on.

    Nothing is lost but the file that was being written: each is made beside and then renamed.
    """
    try:
        yield
    except OSError as error:
        raise _not_written(run, error.strerror or str(error), full=error.errno in _FULL) from error
    except RuntimeError as error:
        # torch.save loses the system's error number.
        if "PytorchStreamWriter" not in str(error) and "unexpected pos" not in str(error):
            raise
        raise _not_written(run, "torch could not write all of it", full=True) from error


def _not_written(run: Path, reason: str, *, full: bool) -> RSTinyNetError:
    remedy = "make room on its disk" if full else "make the folder writable"
    if not checkpoint.kept(run):
        return RSTinyNetError(
            f"{run} cannot be written ({reason}), and nothing of the run is saved yet: {remedy} "
            "and start it again"
        )
    return RSTinyNetError(
        f"{run} cannot be written ({reason}); what was saved before is intact: {remedy} and "
        f"continue with rstinynet train --resume {run}"
    )


class NotFiniteError(RSTinyNetError):
    """A batch's loss or gradient is not finite; weights and statistics are those before it."""


def bad_image(error: DataError, run: Path) -> DataError:
    """The error of a training image, with how to go on."""
    if not checkpoint.kept(run):
        return DataError(
            f"{error}. Nothing of the run is saved yet: put the image in its place and start the "
            "run again (--set bad_images=skip leaves such out)"
        )
    return DataError(
        f"{error}. The run is kept: put the image in its place and continue with "
        f"rstinynet train --resume {run} (--set bad_images=skip leaves such out)"
    )


def not_finite(fault: str, run: Path, *, limit: int | None) -> NotFiniteError:
    """The error of a batch, with how to go on; `limit` in a row were skipped, None: none may be."""
    remedy = "to leave such batches out"
    change = "nonfinite=skip"
    if limit is not None:
        remedy = f"{limit} in a row were left out, and to leave out more"
        change = f"nonfinite_limit={2 * limit + 10}"
    return NotFiniteError(
        f"{fault}. The weights before it are saved; {remedy}: "
        f"rstinynet train --resume {run} --set {change}"
    )
