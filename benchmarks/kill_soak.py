"""kill -9 of the receiver at random moments under load: what it has acknowledged must be there.

    python benchmarks/kill_soak.py [--kills 200] [--durability instance] [--seed 0]

Four senders send instances of all sizes; the receiver is killed, started again on the same folder, and looked at. Ends
with 1 when an acknowledged instance is missing from the index or the disk, is indexed under another file, or when any
indexed file has other bytes than were sent.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import sqlalchemy as sa
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom.dsutils import encode
from receiving.receivers import start

from dicom_node.receive.header import read_file_head
from dicom_node.store import tables
from dicom_node.testing.bytes_peer import BytesPeer
from dicom_node.testing.series import PLANES, phantom_uid, plane_affine, slice_datasets

SENDERS: Final = 4
SIZES: Final = (8, 64, 128, 256, 800)  # the last is larger than the receiver's buffer
LONGEST_LIFE_SECONDS: Final = 0.8


@dataclass
class Sent:
    """What was sent, and what was acknowledged: SHA-256 of datasets by SOP Instance UID."""

    offered: dict[str, str] = field(default_factory=dict)
    acknowledged: dict[str, str] = field(default_factory=dict)


class Sender(threading.Thread):
    """Sends new instances over one association until it breaks."""

    def __init__(self, port: int, name: str, sent: Sent) -> None:
        super().__init__(name=name)
        self._port = port
        self._sent = sent

    def run(self) -> None:
        """Send; a lost connection is the end."""
        try:
            with BytesPeer("127.0.0.1", self._port) as peer:
                peer.associate([(1, str(MRImageStorage), str(ExplicitVRLittleEndian))])
                for number in range(100_000):
                    self._send(peer, number)
        except OSError:
            return

    def _send(self, peer: BytesPeer, number: int) -> None:
        uid = phantom_uid(self.name, number)
        size = SIZES[number % len(SIZES)]
        pixels = np.full((1, size, size), number % 4096, np.uint16)
        affine = plane_affine(PLANES["axial"], (1, 1, 1), (0, 0, 0))
        (ds,) = slice_datasets(pixels, affine, key=self.name, header={"SOPInstanceUID": uid})
        dataset = encode(ds, False, True) or b""
        digest = hashlib.sha256(dataset).hexdigest()
        self._sent.offered[uid] = digest
        if peer.store(1, str(MRImageStorage), uid, dataset)[0] == 0:
            self._sent.acknowledged[uid] = digest


def losses(folder: Path, sent: Sent, seen: set[str]) -> list[str]:
    """What is wrong in the receiver's folder after it has started again; ``seen`` grows by what was found sound."""
    engine = tables.open_engine(f"sqlite:///{folder / 'node.sqlite'}")
    with engine.connect() as c:
        rows: Mapping[str, str] = {r.sop_uid: r.path for r in c.execute(sa.select(tables.instances))}
    engine.dispose()
    wrong = [f"{uid} was acknowledged and is not in the index" for uid in sent.acknowledged.keys() - rows.keys()]
    for uid in rows.keys() - seen:
        file = folder / "store" / rows[uid]
        data = file.read_bytes() if file.exists() else b""
        if not data or file.stem != uid:
            wrong.append(f"{uid} is in the index and not on disk")
        elif hashlib.sha256(data[read_file_head(data).dataset_at :]).hexdigest() != sent.offered[uid]:
            wrong.append(f"{uid} has other bytes than were sent")
        else:
            seen.add(uid)
    files = {p.stem for p in (folder / "store" / "instances").rglob("*.dcm")}
    wrong += [f"{uid} is on disk and not in the index" for uid in files - rows.keys()]
    return wrong


def main() -> int:
    """Kill, look, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--durability", choices=("instance", "association", "none"), default="instance")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    chance = random.Random(chosen.seed)
    sent, seen = Sent(), set[str]()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="kill-") as name:
        folder = Path(name) / "node"
        folder.mkdir()
        for kill in range(chosen.kills + 1):
            process, port = start(f"node_{chosen.durability}", folder)
            wrong += losses(folder, sent, seen)
            senders = [Sender(port, f"{chosen.seed} {kill} {n}", sent) for n in range(SENDERS)]
            if kill < chosen.kills:
                for sender in senders:
                    sender.start()
                time.sleep(chance.uniform(0.02, LONGEST_LIFE_SECONDS))
            process.kill()
            process.wait()
            for sender in senders:
                if sender.ident is not None:
                    sender.join()
    missing = len(sent.acknowledged.keys() - seen)
    print(f"{chosen.kills} kills, durability {chosen.durability}: {len(sent.offered)} instances sent,")
    print(
        f"{len(sent.acknowledged)} acknowledged, {len(seen)} stored bit-identical, {missing} lost, {len(wrong)} wrong"
    )
    for sentence in wrong[:20]:
        print(sentence, file=sys.stderr)
    return int(bool(missing or wrong))


if __name__ == "__main__":
    sys.exit(main())
