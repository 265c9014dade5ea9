"""A PACS for tests: takes, answers queries, and can misbehave on purpose.

    with FakePacs() as pacs:
        ...  # send to 127.0.0.1, pacs.port
        assert pacs.wait_for(lambda: pacs.stores.total() == 2, timeout=10)

As its own process: ``python -m dicom_node.testing.fake_pacs --port 11113 --folder DIR`` prints one JSON line with its
port when it listens, and stops on SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

import pydicom
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom._globals import ALL_TRANSFER_SYNTAXES
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

from dicom_node.model.instance import valid_uid
from dicom_node.testing.find import FIND_LEVELS, answers

_ANSWERS_FILE = "stores.jsonl"


class FakePacs:
    """C-STORE, C-ECHO and C-FIND (Study Root: STUDY, SERIES, IMAGE) SCP on 127.0.0.1. Thread-safe.

    Args:
        folder: also keep each object there as a Part 10 file ``<SOPInstanceUID>.dcm``, and in ``stores.jsonl`` one
            line per object taken; what is there already is known from the start. None: memory only.
        port: 0 lets the system choose; it stays the same through ``down`` and ``up``.
        refused_classes: SOP Class UIDs that no association accepts.
        find_levels: Query/Retrieve Levels that are answered; another one fails with 0xA900.
        require_called_ae_title: reject associations that call another AE title.
        calling_ae_titles: reject associations of others; empty takes all.
        maximum_associations: more at a time are rejected (transient).
    """

    def __init__(
        self,
        folder: Path | None = None,
        port: int = 0,
        *,
        ae_title: str = "FAKEPACS",
        refused_classes: Collection[str] = (),
        find_levels: Sequence[str] = FIND_LEVELS,
        require_called_ae_title: bool = False,
        calling_ae_titles: Collection[str] = (),
        maximum_associations: int = 50,
    ) -> None:
        self.port = port
        self.folder = folder
        self.find_levels = tuple(find_levels)
        self.delay = 0.0
        """Seconds before each C-STORE is answered; ``down`` cuts it short."""
        self._refused_classes = frozenset(refused_classes)
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._received: dict[str, pydicom.Dataset] = {}
        self._stores: Counter[str] = Counter()
        self._digests: dict[str, set[str]] = {}
        self._attempts = 0
        self._waiting = 0
        self._status = 0x0000
        self._drops = 0
        self._server: Any = None
        self._ae = self._entity(ae_title)
        self._ae.require_called_aet = require_called_ae_title
        self._ae.require_calling_aet = list(calling_ae_titles)
        self._ae.maximum_associations = maximum_associations
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._recall(folder)

    def __enter__(self) -> FakePacs:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    @property
    def received(self) -> dict[str, pydicom.Dataset]:
        """The datasets that were stored last, by SOP Instance UID, with file meta information."""
        with self._changed:
            return dict(self._received)

    @property
    def stores(self) -> Counter[str]:
        """How often each SOP Instance UID was stored with success or a warning."""
        with self._changed:
            return Counter(self._stores)

    @property
    def digests(self) -> dict[str, set[str]]:
        """SHA-256 (hex) of the datasets' bytes that were stored, by SOP Instance UID: one, if all were the same."""
        with self._changed:
            return {uid: set(digests) for uid, digests in self._digests.items()}

    @property
    def attempts(self) -> int:
        """How many C-STORE requests came, whatever the answer was."""
        with self._changed:
            return self._attempts

    @property
    def waiting(self) -> int:
        """How many C-STORE requests have come and wait for ``delay``."""
        with self._changed:
            return self._waiting

    def up(self) -> None:
        """Listen, on the same port as before if there was one.

        Raises:
            OSError: the port is taken.
        """
        if self._server is not None:
            return
        self._stopping.clear()
        handlers = [
            (evt.EVT_CONN_OPEN, _no_delay),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_FIND, self._on_find),
        ]
        self._server = self._ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        self.port = self._server.server_address[1]

    def down(self) -> None:
        """Stop listening and abort the associations; what was stored is kept."""
        if self._server is None:
            return
        self._stopping.set()
        self._ae.shutdown()
        self._server = None

    def refuse_with(self, status: int) -> None:
        """Answer C-STORE with this status from now on; 0x0000 takes again. With a warning (0xBxxx) it stores."""
        with self._changed:
            self._status = status

    def drop_associations(self, count: int) -> None:
        """Abort the next ``count`` associations when an object has come, before it is stored or answered."""
        with self._changed:
            self._drops = count

    def wait_for(self, predicate: Callable[[], bool], timeout: float) -> bool:
        """Wait until ``predicate`` holds, asked anew after each C-STORE; False if it does not within ``timeout`` s."""
        with self._changed:
            return self._changed.wait_for(predicate, timeout)

    def _entity(self, ae_title: str) -> Any:
        ae = AE(ae_title=ae_title)
        ae.maximum_pdu_size = 131072
        ae.add_supported_context(Verification)
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        for context in AllStoragePresentationContexts:
            if context.abstract_syntax not in self._refused_classes:
                ae.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
        return ae

    def _recall(self, folder: Path) -> None:
        for path in sorted(folder.glob("*.dcm")):
            self._received[path.stem] = pydicom.dcmread(path)
        answered = folder / _ANSWERS_FILE
        if answered.exists():
            for line in answered.read_text(encoding="ascii").splitlines():
                entry = json.loads(line)
                self._count(entry["SOPInstanceUID"], entry["sha256"])

    def _count(self, uid: str, digest: str) -> None:
        self._stores[uid] += 1
        self._digests.setdefault(uid, set()).add(digest)

    def _on_store(self, event: Any) -> int:
        """Take one object.

        Returns:
            0x0000 or the status of ``refuse_with``; 0xA700 while going down; 0xA900 when command and dataset
            differ; 0xC000 for a UID that is none.
        """
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
        stopped = self._stopping.wait(self.delay)
        with self._changed:
            self._waiting -= 1
            self._attempts += 1
            status, drop = self._status, self._drops > 0
            self._drops -= drop
            self._changed.notify_all()
        if stopped:
            return 0xA700
        if drop:
            event.assoc.abort()
            return 0xC000
        if status and not 0xB000 <= status <= 0xBFFF:
            return status
        uid = str(event.request.AffectedSOPInstanceUID)
        if not valid_uid(uid):
            return 0xC000
        part10 = event.encoded_dataset()
        digest = hashlib.sha256(event.request.DataSet.getvalue()).hexdigest()
        dataset = pydicom.dcmread(BytesIO(part10))
        if uid != dataset.SOPInstanceUID or event.request.AffectedSOPClassUID != dataset.SOPClassUID:
            return 0xA900
        with self._changed:
            if self.folder is not None:
                self._keep(self.folder, uid, digest, part10)
            self._received[uid] = dataset
            self._count(uid, digest)
            self._changed.notify_all()
        return status

    def _keep(self, folder: Path, uid: str, digest: str, part10: bytes) -> None:
        aside = folder / f"{uid}.part"
        aside.write_bytes(part10)
        aside.rename(folder / f"{uid}.dcm")
        with (folder / _ANSWERS_FILE).open("a", encoding="ascii") as lines:
            lines.write(json.dumps({"SOPInstanceUID": uid, "sha256": digest}) + "\n")

    def _on_find(self, event: Any) -> Iterator[tuple[int, pydicom.Dataset | None]]:
        """0xFF00 with each match; 0xA900 for a level that is not answered."""
        level = str(event.identifier.get("QueryRetrieveLevel", ""))
        if level not in self.find_levels:
            yield 0xA900, None
            return
        for answer in answers(event.identifier, list(self.received.values())):
            yield 0xFF00, answer


def _no_delay(event: Any) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m dicom_node.testing.fake_pacs", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: the system chooses")
    parser.add_argument("--folder", type=Path, help="keep the objects there")
    parser.add_argument("--ae-title", default="FAKEPACS")
    chosen = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with FakePacs(chosen.folder, chosen.port, ae_title=chosen.ae_title) as pacs:
        sys.stdout.write(json.dumps({"port": pacs.port}) + "\n")
        sys.stdout.flush()
        stop.wait()


if __name__ == "__main__":
    main()
