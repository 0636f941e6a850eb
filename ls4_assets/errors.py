"""Every error that a person reads.

Each message is one plain sentence that ends with what to do next; the class says whose problem it is. Anything else that
is raised is a defect of the platform, not of a frame, and may fail a whole run.
"""


class Ls4Error(Exception):
    """Base of all errors whose message is written for people."""


class InvalidNameError(Ls4Error):
    """A key that does not follow the archive's grammar: rejected before any pixel is read, no partition is made."""


class FrameError(Ls4Error):
    """Something is wrong with the content of one frame; its siblings go on."""


class InsufficientResourcesError(Ls4Error):
    """A disk is too full for a frame at this moment: it waits, and is not at fault."""


class NotFoundError(Ls4Error):
    """An object is not in the bucket (any more)."""


class NotificationError(Ls4Error):
    """A message to people was not accepted; it stays due and is sent again."""


class UnknownCollectionError(Ls4Error):
    """Somebody typed the name of a collection that the archive does not have."""


class ConfigurationError(Ls4Error):
    """A setting, an address or a credential is wrong or missing: the operator mends it."""
