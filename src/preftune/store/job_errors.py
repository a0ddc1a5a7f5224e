"""Why the job table refuses; each message may be shown to the user who asked."""

from preftune.errors import StoreError


class UnknownJobError(StoreError):
    """No such job in this project."""


class WrongStateError(StoreError):
    """The job cannot do this as it stands, such as be paused when it has ended."""


class LostLeaseError(StoreError):
    """Somebody else has the job now, or it has ended: this worker must leave."""


class UnknownModelError(StoreError):
    """No such tuned model in this project."""
