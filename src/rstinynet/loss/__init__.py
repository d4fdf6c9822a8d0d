"""Targets, assignment and losses of training."""

from rstinynet.loss.criterion import Criterion, Losses
from rstinynet.loss.settings import LossSettings
from rstinynet.loss.targets import Targets

__all__ = ["Criterion", "LossSettings", "Losses", "Targets"]
