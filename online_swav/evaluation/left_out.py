"""Images of a labelled set that gave no picture: counted, and told once."""

from __future__ import annotations

import logging

from online_swav.evaluation.places import UnreadError
from streams.errors import SampleError

logger = logging.getLogger(__name__)


class LeftOut:
    """What was left out of passes over one set; an image counts once.

    Args:
        title: Of the set, in words.
        of: Images in it.
    """

    def __init__(self, title: str, *, of: int) -> None:
        self._title = title
        self._of = of
        self._indices: set[int] = set()
        self._unread: set[int] = set()
        self._first = ""
        self._told = False

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def unread(self) -> int:
        """Those whose file could not be read or had changed: another time may find them."""
        return len(self._unread)

    def note(self, index: int, error: SampleError) -> None:
        """Count the image at `index`."""
        if not self._indices:
            self._first = str(error)
        self._indices.add(index)
        if isinstance(error, UnreadError):
            self._unread.add(index)

    def tell(self) -> None:
        """One warning with the count, at the first call that has one to tell."""
        if self._indices and not self._told:
            self._told = True
            tell_left_out(
                len(self), of=self._of, title=self._title,
                why=f"{len(self) - self.unread} do not decode, {self.unread} could not be read; "
                f"the first: {self._first}",
            )  # fmt: skip


def tell_left_out(count: int, *, of: int, title: str, why: str) -> None:
    """A warning that the numbers are of the remainder."""
    logger.warning("images_left_out=%d of=%d in=%s: %s", count, of, title, why)
