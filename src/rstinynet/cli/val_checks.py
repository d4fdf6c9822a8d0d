"""What `rstinynet val` refuses before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rstinynet.errors import UsageError
from rstinynet.files import check_file_place, check_folder_place

if TYPE_CHECKING:
    import typer

    from rstinynet.data.annotations import LabelledSet
    from rstinynet.evaluate.study import Wanted

_OF_A_MODEL = (
    "save_predictions",
    "conf",
    "iou",
    "scale",
    "fit",
    "tta",
    "size",
    "batch",
    "device",
    "threads",
    "providers",
    "precision",
)
"""Options of a model's search; a results file is what came of one."""


def check_subject(context: typer.Context, model: str | None, predictions: Path | None) -> None:
    """One of the two is scored, and what only a model takes is given with a model alone."""
    if (model is None) == (predictions is None):
        raise UsageError("val needs either --model WEIGHTS or --predictions FILE, and not both")
    if model is not None:
        return
    given = [
        "--" + name.replace("_", "-")
        for name in _OF_A_MODEL
        if getattr(context.get_parameter_source(name), "name", None) == "COMMANDLINE"
    ]
    if given:
        raise UsageError(
            f"a results file is scored as it is: leave out {', '.join(given)} (how a model "
            "searches), or give --model in place of --predictions"
        )


def check_places(save_predictions: Path | None, plots: Path | None) -> None:
    """Refuse before the run what could not be written after it."""
    if save_predictions is not None:
        check_file_place(save_predictions, option="--save-predictions")
    if plots is not None:
        check_folder_place(plots, option="--plots")
        import matplotlib.figure  # noqa: F401  # which says what to install where it is missing


def check_numbers(*, batch: int, **numbers: float) -> None:
    """UsageError for a share that is none, named by its option, or a batch of nothing."""
    for name, share in numbers.items():
        if not 0 <= share <= 1:
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} must lie in [0, 1], not {share}")
    if batch < 1:
        raise UsageError(f"--batch must be at least 1, not {batch}")


def check_fit(fit: int | None, *, scale: str | None) -> None:
    """UsageError for a side that is none, or beside a factor."""
    if fit is not None and scale is not None:
        raise UsageError("give either --scale, one factor for all images, or --fit, and not both")
    if fit is not None and not 32 <= fit <= 8192:
        raise UsageError(f"--fit must be 32 to 8192 pixels, not {fit}")


def check_factor(fit: int, labelled: LabelledSet) -> None:
    """UsageError where an image would be enlarged more than a search can."""
    from rstinynet.scenes.views import MOST_SCALE

    smallest = min(labelled.images, key=lambda image: max(image.width, image.height))
    factor = fit / max(smallest.width, smallest.height)
    if factor > MOST_SCALE:
        raise UsageError(
            f"--fit {fit} enlarges {smallest.path.name} ({smallest.width} x {smallest.height}) "
            f"{factor:g} times; {MOST_SCALE} are the most"
        )


def check_scales(labelled: LabelledSet, wanted: Wanted) -> None:
    """UsageError where an image does not say its metres a pixel, which --size needs."""
    for image in labelled.images:
        if image.id not in wanted.gsd_m:
            raise UsageError(
                f"--size needs metres a pixel, and image {image.id} ({image.path.name}) says none "
                "by a field gsd_m: give --gsd"
            )
