"""An object of two gigabytes: how fast it is received, and in how much memory."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

from receiving.processes import forget_peak, peak_mb
from receiving.receivers import running
from receiving.studies import head_study

HUGE_MB: Final = 2000
_FRAME_BYTES: Final = 1 << 20


def measure_huge(receiver: str, out: Path, megabytes: int = HUGE_MB) -> dict[str, dict[str, float]]:
    """The object with a length, and as fragments without one: {case: {"mb_per_s", "rss_mb"}}."""
    from dicom_node.testing.bytes_peer import BytesPeer
    from dicom_node.testing.multi_frame import huge_object

    figures = {}
    frames = megabytes * 1_000_000 // _FRAME_BYTES
    with running(receiver, out) as (pid, port):
        for case, syntax in (("native", ExplicitVRLittleEndian), ("fragments", JPEG2000Lossless)):
            template = head_study({"native": 1, "fragments": 2}[case])[0]
            header = template.dataset.partition(b"\xe0\x7f\x10\x00")[0]
            pieces = huge_object(header, frames, _FRAME_BYTES, fragments=case == "fragments")
            os.sync()
            forget_peak(pid)
            began = time.perf_counter()
            with BytesPeer("127.0.0.1", port, timeout=300) as peer:
                peer.associate([(1, template.sop_class, str(syntax))])
                status, comment = peer.store_pieces(1, template.sop_class, template.sop_instance, pieces)
                if status:
                    raise SystemExit(f"it was refused: 0x{status:04X} {comment}")
                peer.release()
            figures[case] = {"mb_per_s": megabytes / (time.perf_counter() - began), "rss_mb": peak_mb(pid)}
    return figures
