"""Exceptions of training: every message says what is wrong and what to do about it."""

from layerroute.errors import LayerRouteError


class TrainingError(LayerRouteError):
    """Base class of what stops a training or an evaluation on purpose."""


class ConfigError(TrainingError):
    """A configuration that contradicts itself, names an unknown key, or holds a value out of range."""


class CorpusError(TrainingError):
    """A corpus that cannot be found or read, is empty, holds one kind only, or has too many malformed rows."""


class OverlapError(TrainingError):
    """Training rows that share text with the evaluation rows."""


class CheckpointError(TrainingError):
    """A checkpoint that is missing, incomplete, or of another run."""


class NotMeasuredError(TrainingError):
    """A bundle that was trained and saved, but whose evaluation failed."""


class WorkerError(TrainingError):
    """A worker process that ended before its work."""
