"""Errors a user can mend: each is one line that names the argument, the value and the remedy."""


class InputError(ValueError):
    """Input that cannot be used; programs print it as one line and exit with status 2."""


class FolderBusy(InputError):
    """Another process is at work in the run folder; programs exit with status 75: try again later."""


class DevicesUnavailable(RuntimeError):
    """The devices that the environment asks for are not there; programs exit with status 69."""


class TrainingDiverged(RuntimeError):
    """The training loss stopped being finite; the last good checkpoint is kept."""
