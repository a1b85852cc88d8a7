"""What a user can mend: each error is one sentence that names the file or the key."""


class ActivationDescentError(Exception):
    """Base of all errors that are shown to the user as one sentence, without a traceback."""


class SettingsError(ActivationDescentError):
    """A configuration or claims file asks for something that cannot be run."""


class DivergedError(ActivationDescentError):
    """A training run's loss is no longer finite."""


class CheckpointError(ActivationDescentError):
    """A checkpoint cannot be read."""


class TrackingError(ActivationDescentError):
    """A run cannot be recorded where the user asked for it."""


class RecordsError(ActivationDescentError):
    """A table of records breaks the contract of `records`."""


class ModelError(ActivationDescentError):
    """A language model cannot be found, loaded or used for what is asked of it."""


class DataError(ActivationDescentError):
    """A data set is missing or lacks what a task needs."""
