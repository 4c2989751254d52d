"""Every error that batchwright raises, as one tree.

`BatchwrightError`
├── `UsageError`            the caller asked wrongly: repeating the same call cannot help
│   ├── `NotFound`
│   ├── `Conflict`          the object is in a state in which this cannot be done
│   └── `ConfigError`       a setting is wrong; said before anything starts
├── `TransportError`        no complete answer came back from a provider
│   ├── `NotSent`           the request certainly did not leave: free to send again
│   │   └── `LongWait`      it could go, but in longer than a live call should wait
│   ├── `Ambiguous`         it may have been received and billed
│   └── `AnswerTooLarge`    the answer passed the byte cap
├── `StorageError`          the disk, the database or the object store failed
│   ├── `Damaged`           what is stored is not what was written
│   ├── `Superseded`        another writer has taken over: stop writing
│   ├── `Locked`            another process owns the data directory
│   └── `NoSpace`           less than the reserve is free
└── `IllegalTransition`     a change of state that the state table does not have
"""

from __future__ import annotations


class BatchwrightError(Exception):
    """The root of the tree; its text is meant to be shown to a person."""


class UsageError(BatchwrightError):
    """The caller asked wrongly.

    `param` names the field, `code` is the machine-readable cause of the OpenAI error body
    (both may be None), `status` the HTTP status that a server answers with.
    """

    status = 400

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class NotFound(UsageError):
    """No such object, or another tenant's: the two look alike."""

    status = 404


class Conflict(UsageError):
    """The object is in a state in which this cannot be done."""

    status = 409


class ConfigError(UsageError):
    """A setting is wrong. The message names key, expectation and value."""


class TransportError(BatchwrightError):
    """No complete answer came back from a provider."""


class NotSent(TransportError):
    """The request certainly did not reach the provider: nothing was billed."""


class LongWait(NotSent):
    """The provider lets the call in only in `wait_s` seconds: it asked for a wait, or a limit per
    hour or day is used up."""

    def __init__(self, provider: str, wait_s: float) -> None:
        super().__init__(f"{provider} lets this in only in {wait_s:,.0f} s; nothing was sent.")
        self.wait_s = wait_s


class Ambiguous(TransportError):
    """The request may have reached the provider and may have been billed."""


class AnswerTooLarge(TransportError):
    """The decoded answer passed the byte cap; it was received, so it may be billed."""


class StorageError(BatchwrightError):
    """The disk, the database or the object store failed."""


class Damaged(StorageError):
    """Stored bytes are not what was written. Nothing is guessed or bought again."""


class Superseded(StorageError):
    """Another writer has a higher epoch: what this one writes no longer counts."""


class Locked(StorageError):
    """Another process owns the data directory; the message says which."""


class NoSpace(StorageError):
    """Less than the reserve of free space is left."""


class IllegalTransition(BatchwrightError):
    """A change of state that the state table does not have: a bug of ours."""
