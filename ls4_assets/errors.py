"""Every error whose message is written for people.

The message says what is wrong and what to do next; the class says whose problem it is. Any other exception is a defect of the
platform and may fail a whole run. Errors of one module that no other module handles do not belong here.
"""

import os


class Ls4Error(Exception):
    """Base class of all errors whose message is written for people."""


class InvalidNameError(Ls4Error):
    """A key does not follow the archive's grammar. It is rejected before any pixel is read and gets no partition."""


class FrameError(Ls4Error):
    """The content of one frame is wrong. The other frames of the run continue."""


class MissingGeoreferenceError(FrameError):
    """A scan has no geotransform or no CRS. `ls4 check` can still inspect its pixels."""


class InsufficientResourcesError(Ls4Error):
    """A disk is too full for a frame at the moment. The frame waits; it is not at fault."""

    advice = "free some disk space"

    @property
    def problem(self) -> str:
        return str(self)


class NotFoundError(Ls4Error):
    """An object is not, or no longer, in the bucket."""


class UnwritableArchiveError(Ls4Error):
    """The archive's folder cannot be written to, or not safely. The frame waits; it is not at fault."""

    def __init__(self, problem: str, advice: str = "") -> None:
        self.problem = problem
        self.advice = advice or f"mount it writable, or give its folders to user {os.geteuid()} with chown"
        super().__init__(f"{problem}; {self.advice}.")


class IrregularEntryError(Ls4Error):
    """An entry of the archive is a link or a device, or must not be read. The person who put it there has to replace it."""


class NotificationError(Ls4Error):
    """A notification was not accepted. It stays due and is sent again."""


class UnknownCollectionError(Ls4Error):
    """The archive has no collection with the given name."""


class ConfigurationError(Ls4Error):
    """A setting, an address or a credential is wrong or missing. The operator has to correct it."""
