"""HTTP requests in, JSON out; knows no Ray.

    POST /  or  /embed    the bytes of a picture -> {"embedding": [...], "dim", "step", "prototype"}
    GET  /card            what the encoder says of itself
    GET  /-/healthz       answered by Ray Serve's proxy

An error is one sentence, {"error": "..."}: 413 too large, 415 no picture, 422 a damaged one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from online_swav.serving.config import ServingConfig
from online_swav.serving.hot_encoder import HotEncoder
from online_swav.serving.pictures import Embedded, embed
from streams.errors import DecodeError

_STATUS = {"unsupported": 415, "too_large": 413}
_DAMAGED = 422

Answer = Embedded | DecodeError
Embed = Callable[[list[bytes]], Awaitable[list[Answer]]]
Batched = Callable[[Embed], Callable[[bytes], Awaitable[Answer]]]
"""Makes of what takes many pictures something that takes one, and waits for others to join it."""


class EmbeddingServer:
    """Collects pictures of many requests into batches.

    Args:
        config: The service.
        batched: As `ray.serve.batch`.

    Raises:
        ConfigError: If there is no encoder that can be used.
    """

    def __init__(self, config: ServingConfig, *, batched: Batched) -> None:
        self._max_bytes = config.max_bytes
        self._encoder = HotEncoder(config.place)
        self._encoder.watch(every_s=config.reload_every_s)
        self._embed = batched(self._embed_batch)

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        path = request.url.path.rstrip("/")
        if path == "/card":
            if request.method not in ("GET", "HEAD"):
                return _error(405, "the card is read with GET", allow="GET")
            return JSONResponse(self._card())
        if path not in ("", "/embed"):
            return _error(404, f"nothing at {path}; POST a picture to /embed, or GET /card")
        if request.method != "POST":
            return _error(405, "POST the bytes of a picture here: curl --data-binary @x.jpg URL",
                          allow="POST")  # fmt: skip
        return await self._answer(request)

    async def state(self) -> dict[str, Any]:
        """What the command that started the service tells its user."""
        return {
            "name": self._encoder.current.name,
            "at": self._encoder.stamp,
            "trouble": self._encoder.trouble,
        }

    async def _answer(self, request: Request) -> Response:
        if request.headers.get("content-type", "").startswith("multipart/"):
            return _error(415, "this is a form; send the bytes of the picture alone "
                          "(curl --data-binary @x.jpg)")  # fmt: skip
        data = await _body(request, most=self._max_bytes)
        if data is None:
            return _error(413, f"the picture is larger than the {self._max_bytes} bytes that are "
                          "accepted here")  # fmt: skip
        if not data:
            return _error(415, "the request has no body; send the bytes of a picture")
        found = await self._embed(data)
        if isinstance(found, DecodeError):
            return _error(_STATUS.get(found.reason, _DAMAGED), str(found))
        return JSONResponse({**asdict(found), "dim": len(found.embedding)})

    async def _embed_batch(self, pictures: list[bytes]) -> list[Answer]:
        return await asyncio.to_thread(embed, self._encoder.current, pictures)

    def _card(self) -> dict[str, Any]:
        encoder = self._encoder.current
        return {
            **encoder.card,
            "feature_dim": encoder.feature_dim,
            "num_prototypes": encoder.num_prototypes,
        }


def _error(status: int, sentence: str, *, allow: str | None = None) -> JSONResponse:
    headers = {"allow": allow} if allow else None
    return JSONResponse({"error": sentence}, status_code=status, headers=headers)


async def _body(request: Request, *, most: int) -> bytes | None:
    """The body, or None as soon as it is known to be longer than `most` bytes."""
    told = request.headers.get("content-length", "")
    if told.isdigit() and int(told) > most:
        return None
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > most:
            return None
    return bytes(data)
