"""The newest encoder of a run, replaced while it is used."""

from __future__ import annotations

import copy
import logging
import threading

import torch

from online_swav.encoder import Encoder
from online_swav.errors import ConfigError

logger = logging.getLogger(__name__)


class HotEncoder:
    """Holds an encoder, and takes each newer one that its run publishes.

    Args:
        place: As of `Encoder.load`; only a run has newer ones.

    Raises:
        ConfigError: If there is no encoder yet, or none that can be used.
    """

    def __init__(self, place: str) -> None:
        self._encoder = Encoder.load(place)
        _prove(self._encoder)
        self.trouble: str | None = None
        """Why the newest one is not in use; None while it is."""

    @property
    def stamp(self) -> float:
        """When the one in use was made, in unix seconds."""
        return self._encoder.weights.stamp

    @property
    def current(self) -> Encoder:
        """The one to use now. It never changes by itself: a batch that holds it has one encoder."""
        return self._encoder

    def look(self) -> bool:
        """Take a newer encoder if there is one; whether there was.

        One that cannot be used is passed over, and tried again at the next look: what serves goes
        on serving.
        """
        newer = copy.copy(self._encoder)  # refreshing the copy leaves the other one as it is
        try:
            found = newer.refresh()
            if found:
                _prove(newer)
        except Exception as error:
            if str(error) != self.trouble:
                logger.warning("encoder_not_taken: %s", error)
            self.trouble = str(error)
            return False
        self.trouble = None
        if found:
            self._encoder = newer
            logger.info("encoder_taken %s", newer.name)
        return found

    def watch(self, *, every_s: float) -> None:
        """Look again and again, in a thread that ends with the process."""

        def run() -> None:
            pause = threading.Event()
            while not pause.wait(every_s):
                self.look()

        threading.Thread(target=run, name="encoder-watch", daemon=True).start()


def _prove(encoder: Encoder) -> None:
    """Encode a gray picture: what cannot do that must not be served. Also the slow first call.

    Raises:
        ConfigError: If its features are not finite.
    """
    gray = torch.full((1, 3, 64, 64), 128, dtype=torch.uint8)
    if not encoder(gray).isfinite().all():
        raise ConfigError(f"{encoder.place} gives features that are not finite; serve another one")
