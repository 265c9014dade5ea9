"""The HTTP service that takes STOW-RS requests, in a thread of its own."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import os
import re
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable

import anyio
import uvicorn
from anyio import to_thread
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from dicom_node import log
from dicom_node.errors import ConfigurationError, InvalidInstance
from dicom_node.model.instance import valid_uid
from dicom_node.receive.intake import Intake
from dicom_node.receive.stow import StoreRequest
from dicom_node.settings import DicomwebSettings

ROOT = "/dicom-web"
_JSON = "application/dicom+json"
_PIECE_BYTES = 1 << 20
_STOP_SECONDS = 10.0
_BACKLOG = 128

_logger = log.get("receive")


class WebListener:
    """Serves ``POST /dicom-web/studies`` and ``/dicom-web/studies/{study}`` (PS3.18 section 10.5).

    Args:
        called: the node's AE title, which routing sees as the one that was called.
    """

    def __init__(self, settings: DicomwebSettings, intake: Intake, called: str) -> None:
        self._settings = settings
        self._intake = intake
        self._called = called
        self._socket: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; the configured one while stopped."""
        return self._settings.port if self._socket is None else int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Listen, in a thread of its own.

        Raises:
            ConfigurationError: the address or port cannot be had, or the certificate cannot be used.
        """
        settings = self._settings
        routes = [
            Route(f"{ROOT}/studies", self._store, methods=["POST"]),
            Route(f"{ROOT}/studies/{{study}}", self._store, methods=["POST"]),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=settings.maximum_requests,
            timeout_keep_alive=int(settings.idle_seconds) or 1,
            timeout_graceful_shutdown=int(_STOP_SECONDS),
            ssl_certfile=settings.certificate,
            ssl_keyfile=settings.key,
            ssl_ca_certs=str(settings.client_ca_file) if settings.client_ca_file else None,
            ssl_cert_reqs=ssl.CERT_REQUIRED if settings.client_ca_file else ssl.CERT_NONE,
        )
        try:
            config.load()
        except OSError as e:
            raise ConfigurationError(f"dicomweb.certificate: cannot be used: {e.strerror or e}") from e
        try:
            self._socket = socket.create_server((settings.host, settings.port), backlog=_BACKLOG)
        except OSError as e:
            where = f"{settings.host} port {settings.port}"
            raise ConfigurationError(f"dicomweb.port: cannot listen on {where}: {e.strerror or e}") from e
        if settings.certificate is None and not settings.on_loopback:
            _logger.warning("not_encrypted", host=settings.host, advice="set dicomweb.certificate, or use a proxy")
        self._server = uvicorn.Server(config)
        arguments = {"sockets": [self._socket]}
        self._thread = threading.Thread(target=self._server.run, kwargs=arguments, name="dicomweb", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; requests that are under way may end within some seconds."""
        if self._server is None or self._thread is None or self._socket is None:
            return
        self._server.should_exit = True
        self._thread.join(2 * _STOP_SECONDS)
        self._socket.close()
        self._server = self._thread = self._socket = None

    async def _store(self, request: Request) -> Response:
        """One Store request.

        Returns:
            As ``StoreRequest.finish``; 400 also for a study that is no UID; 401 without valid credentials; 408 when
            nothing more comes; 415 for another content type than multipart/related.
        """
        source = self._user(request)
        if source is None:
            return Response(status_code=401, headers={"WWW-Authenticate": 'Basic realm="dicom-node", charset="UTF-8"'})
        study = str(request.path_params.get("study", ""))
        if study and not valid_uid(study):
            return Response("the study is no UID", 400)
        try:
            store = StoreRequest(self._intake, request.headers.get("content-type", ""), source, self._called, study)
        except InvalidInstance as e:
            return Response(str(e), 415)
        try:
            await self._feed(request, store.write)
            status, said = await to_thread.run_sync(store.finish)
        except TimeoutError:
            _logger.warning("request_idle", calling=source, seconds=self._settings.idle_seconds)
            return Response(status_code=408, headers={"Connection": "close"})
        except ClientDisconnect:
            _logger.warning("request_broken_off", calling=source)
            return Response(status_code=400)
        finally:
            # A part that is under way holds a file.
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(store.discard)
        return Response(json.dumps(said), status, media_type=_JSON)

    async def _feed(self, request: Request, write: Callable[[bytes], None]) -> None:
        """Hand the body over in pieces, to a thread: what takes it writes to disk."""
        pieces = request.stream()
        gathered = bytearray()
        more = True
        while more:
            with anyio.fail_after(self._settings.idle_seconds):
                piece = await _next(pieces.__anext__)
            more = piece is not None
            gathered += piece or b""
            if len(gathered) >= _PIECE_BYTES or not more:
                await to_thread.run_sync(write, bytes(gathered))
                gathered.clear()

    def _user(self, request: Request) -> str | None:
        """Who asks, as an AE title: empty where anybody may; None if they may not."""
        settings = self._settings
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if settings.token_env and scheme.lower() == "bearer":
            return "STOW-RS" if _same(given.strip(), os.environ[settings.token_env]) else None
        if settings.username_env and settings.password_env:
            user, password = _basic(given) if scheme.lower() == "basic" else ("", "")
            known = _same(user, os.environ[settings.username_env])
            right = _same(password, os.environ[settings.password_env])
            return re.sub(r"[^A-Za-z0-9_.-]", "_", user)[:16] if known and right else None
        return None if settings.token_env else ""


async def _next(following: Callable[[], Awaitable[bytes]]) -> bytes | None:
    try:
        return await following()
    except StopAsyncIteration:
        return None


def _basic(given: str) -> tuple[str, str]:
    """User and password of basic credentials (RFC 7617); empty where they are none."""
    try:
        user, _, password = base64.b64decode(given, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password


def _same(given: str, wanted: str) -> bool:
    """Whether two secrets are the same and not empty, in a time that does not tell how much of them is."""
    return bool(wanted) and hmac.compare_digest(given.encode(), wanted.encode())
