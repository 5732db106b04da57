"""Errors of the stream.

StreamError
    SourceError         a place where shards should appear cannot be listed
    ShardError          a shard is not what its listing promised (not a tar, truncated, replaced)
    SampleError         one sample cannot be used; it is counted and quarantined
        DecodeError     its image bytes cannot become a picture
    ReaderError         a reader process cannot work here
    LedgerError         the book is damaged or was asked for something impossible
        LeaseLost       a late worker: its token or its generation is no longer the current one
"""

from __future__ import annotations


class StreamError(Exception):
    """Anything that goes wrong between a source and a batch."""


class SourceError(StreamError):
    """A source cannot be listed. `source` is its name."""

    def __init__(self, message: str, *, source: str) -> None:
        super().__init__(message)
        self.source = source


class ShardError(StreamError):
    """A shard is not what its listing promised. `url` names it, `reason` is a closed word."""

    def __init__(self, message: str, *, url: str, reason: str) -> None:
        super().__init__(message)
        self.url = url
        self.reason = reason


class SampleError(StreamError):
    """One sample cannot be used. `reason` is one of `streams.shard.DROP_REASONS`."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class DecodeError(SampleError):
    """The image bytes of a sample cannot become a picture."""


class QuarantineError(StreamError):
    """The quarantine folder cannot be written: without a copy and a line nothing is dropped."""


class ReaderError(StreamError):
    """A reader process cannot work here."""


class LedgerError(StreamError):
    """The book is damaged, or was asked for something impossible."""


class LeaseLost(LedgerError):
    """The caller's lease or generation is over; whatever it holds must not be used."""
