"""A UPS-RS origin server (PS3.18 section 11) for tests: strict, and it can misbehave on purpose.

with UpsServer() as server:
    server.worklist.create("1.2.3", workitem(...))
    ...  # a performer works at server.url
    assert server.worklist.retrieve("1.2.3").ProcedureStepState == "COMPLETED"
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import uvicorn
from pydicom import Dataset
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from dicom_node.testing.ups_worklist import Refusal, Worklist

ROOT: Final = "/dicom-web"
_JSON = "application/dicom+json"
_STOP_SECONDS = 5.0
_CHANNEL_ENDS = 1001


@dataclass(frozen=True)
class Fault:
    """What a request is answered with instead.

    Attributes:
        performed: what was asked for is done all the same: only its answer is lost.
    """

    status: int
    performed: bool = False


class UpsServer:
    """Serves a :class:`Worklist` on 127.0.0.1, with notifications over WebSockets (PS3.18 section 8.10).

    Args:
        authorization: the value of Authorization that every request must have; empty: none is asked for.
        port: 0 lets the system choose; it stays the same through ``down`` and ``up``.
        like_dcm4chee: the state has the requester's AE title behind it, WebSockets are at a path of their own, and
            Location says which.
        tls: PEM files of its certificate and private key; None: without TLS.

    Attributes:
        worklist: to look into, and to create workitems without HTTP.
        fault: asked before each request for (method, path); None: the request is answered properly.
        asked: (method, path, status) of each request.
    """

    def __init__(
        self,
        authorization: str = "",
        port: int = 0,
        *,
        like_dcm4chee: bool = False,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        self.worklist = Worklist()
        self._tls = tls
        self._like_dcm4chee = like_dcm4chee
        self.authorization = authorization
        self.fault: Callable[[str, str], Fault | None] = lambda _method, _path: None
        self.asked: list[tuple[str, str, int]] = []
        self.port = port
        self._channels: dict[str, list[asyncio.Queue[str | None]]] = {}
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None
        self.worklist.send = self._send

    @property
    def url(self) -> str:
        """What ``/workitems`` is relative to."""
        return f"http{'s' * bool(self._tls)}://127.0.0.1:{self.port}{ROOT}"

    @property
    def _channels_root(self) -> str:
        return "/ws" if self._like_dcm4chee else ROOT

    @property
    def listeners(self) -> set[str]:
        """The AE titles that have a notification connection open."""
        with self._lock:
            return {ae_title for ae_title, queues in self._channels.items() if queues}

    def __enter__(self) -> UpsServer:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def up(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._socket = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self.port = int(self._socket.getsockname()[1])
        one = f"{ROOT}/workitems/{{uid}}"
        routes = [
            self._route(f"{ROOT}/workitems", self._create, "POST"),
            self._route(f"{ROOT}/workitems", self._search, "GET"),
            self._route(one, self._retrieve, "GET"),
            self._route(one, self._update, "POST"),
            self._route(f"{one}/state{'/{ae_title}' * self._like_dcm4chee}", self._change_state, "PUT"),
            self._route(f"{one}/cancelrequest", self._request_cancel, "POST"),
            self._route(f"{one}/subscribers/{{ae_title}}", self._subscribe, "POST"),
            self._route(f"{one}/subscribers/{{ae_title}}", self._unsubscribe, "DELETE"),
            self._route(f"{one}/subscribers/{{ae_title}}/suspend", self._suspend, "POST"),
            WebSocketRoute(f"{self._channels_root}/subscribers/{{ae_title}}", self._notify),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes),
            http="h11",
            ws="websockets-sansio",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
            ssl_certfile=self._tls and self._tls[0],
            ssl_keyfile=self._tls and self._tls[1],
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, args=(self._server, self._socket), daemon=True)
        self._thread.start()

    def down(self) -> None:
        """Stop listening; the worklist is kept, notification connections end."""
        if self._server is None or self._thread is None or self._socket is None:
            return
        self.hang_up()
        self._server.should_exit = True
        self._thread.join(_STOP_SECONDS)
        self._socket.close()
        self._server = self._thread = self._socket = None

    def hang_up(self) -> None:
        """End all notification connections."""
        with self._lock:
            queues = [queue for several in self._channels.values() for queue in several]
        for queue in queues:
            self._put(queue, None)

    def _run(self, server: uvicorn.Server, listening: socket.socket) -> None:
        server.run(sockets=[listening])

    def _route(self, path: str, handle: Callable[[Request], Any], method: str) -> Route:
        async def answer(request: Request) -> Response:
            where = request.url.path.removeprefix(ROOT)
            fault = self.fault(method, where)
            made = Response(status_code=fault.status) if fault else None
            if fault is None or fault.performed:
                answered = await self._answer(request, handle)
                made = made or answered
            assert made is not None
            with self._lock:
                self.asked.append((method, where, made.status_code))
            return made

        return Route(path, answer, methods=[method])

    async def _answer(self, request: Request, handle: Callable[[Request], Any]) -> Response:
        if self.authorization and request.headers.get("authorization") != self.authorization:
            return Response(status_code=401, headers={"WWW-Authenticate": "Bearer"})
        try:
            answered = await handle(request)
        except Refusal as e:
            return Response(status_code=e.status, headers={"Warning": f"299 {self.url}: {e.warning}"})
        assert isinstance(answered, Response)
        return answered

    async def _create(self, request: Request) -> Response:
        """201; 400, 409, 415."""
        ds = await _dataset(request)
        uid = request.url.query
        if not uid:
            uid = str(ds.get("SOPInstanceUID", ""))
            ds.pop("SOPInstanceUID", None)
        self.worklist.create(uid, ds)
        return Response(status_code=201, headers={"Location": f"{self.url}/workitems/{uid}"})

    async def _search(self, request: Request) -> Response:
        """200, 204 for no match; 400, 406."""
        _check_accept(request)
        query = {k: v for k, v in request.query_params.items() if k not in ("limit", "offset", "includefield")}
        include = tuple(name for v in request.query_params.getlist("includefield") for name in v.split(","))
        found = self.worklist.search(query, include)
        first = int(request.query_params.get("offset", 0))
        page = found[first : first + int(request.query_params.get("limit", 100))]
        return _json(page) if page else Response(status_code=204)

    async def _retrieve(self, request: Request) -> Response:
        """200; 404, 406."""
        _check_accept(request)
        return _json([self.worklist.retrieve(request.path_params["uid"])])

    async def _update(self, request: Request) -> Response:
        """200; 400 not ours, ended, or not compliant, 404, 409, 415."""
        self.worklist.update(request.path_params["uid"], request.url.query, await _dataset(request))
        return Response(status_code=200)

    async def _change_state(self, request: Request) -> Response:
        """200; 400, 404, 409, 415."""
        warning = self.worklist.change_state(request.path_params["uid"], await _dataset(request))
        return Response(status_code=200, headers=self._warned(warning))

    async def _request_cancel(self, request: Request) -> Response:
        """202; 400, 404, 409, 415."""
        ds = await _dataset(request) if await request.body() else Dataset()
        warning = self.worklist.request_cancel(request.path_params["uid"], ds, "REQUESTER")
        return Response(status_code=202, headers=self._warned(warning))

    async def _subscribe(self, request: Request) -> Response:
        """201 with the WebSocket's URL; 404."""
        ae_title = request.path_params["ae_title"]
        self.worklist.subscribe(request.path_params["uid"], ae_title)
        where = f"ws{'s' * bool(self._tls)}://127.0.0.1:{self.port}{self._channels_root}/subscribers/{ae_title}"
        name = "Location" if self._like_dcm4chee else "Content-Location"
        return Response(status_code=201, headers={name: where})

    async def _unsubscribe(self, request: Request) -> Response:
        """200; 404."""
        self.worklist.unsubscribe(request.path_params["uid"], request.path_params["ae_title"])
        return Response(status_code=200)

    async def _suspend(self, request: Request) -> Response:
        """200; 404."""
        self.worklist.suspend(request.path_params["ae_title"])
        return Response(status_code=200)

    def _warned(self, warning: str) -> dict[str, str]:
        return {"Warning": f"299 {self.url}: {warning}"} if warning else {}

    async def _notify(self, channel: WebSocket) -> None:
        """One notification connection (PS3.18 section 8.10.4)."""
        if self.authorization and channel.headers.get("authorization") != self.authorization:
            await channel.close()
            return
        self._loop = asyncio.get_running_loop()
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        await channel.accept()
        ae_title = channel.path_params["ae_title"]
        with self._lock:
            self._channels.setdefault(ae_title, []).append(queue)
        leaving = asyncio.create_task(_left(channel, queue))
        try:
            while (event := await queue.get()) is not None:
                await channel.send_text(event)
            await channel.close(_CHANNEL_ENDS)
        except (WebSocketDisconnect, RuntimeError):
            # The performer left while an event was on its way to it.
            return
        finally:
            leaving.cancel()
            with self._lock:
                self._channels[ae_title].remove(queue)

    def _send(self, ae_title: str, event: dict[str, Any]) -> bool:
        with self._lock:
            queues = list(self._channels.get(ae_title, ()))
        for queue in queues:
            self._put(queue, json.dumps(event))
        return bool(queues)

    def _put(self, queue: asyncio.Queue[str | None], event: str | None) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(queue.put_nowait, event)


async def _left(channel: WebSocket, queue: asyncio.Queue[str | None]) -> None:
    """Notice that the other side has gone."""
    try:
        while True:
            await channel.receive_text()
    except WebSocketDisconnect:
        await queue.put(None)


async def _dataset(request: Request) -> Dataset:
    """The one dataset of a request's payload (PS3.18 section F.2: an array)."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != _JSON:
        raise Refusal(415, f"The payload must be {_JSON}.")
    try:
        items: Any = json.loads(await request.body())
        if not isinstance(items, list) or len(items) != 1:
            raise Refusal(400, "The payload must be an array with one dataset.")
        return Dataset.from_json(items[0])
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise Refusal(400, f"The payload is no DICOM JSON: {type(e).__name__}.") from e


def _check_accept(request: Request) -> None:
    if _JSON not in request.headers.get("accept", ""):
        raise Refusal(406, f"Only {_JSON} is given.")


def _json(datasets: Iterable[Dataset]) -> Response:
    return Response(json.dumps([ds.to_json_dict() for ds in datasets]), media_type=_JSON)
