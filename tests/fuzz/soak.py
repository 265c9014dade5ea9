"""The coverage-guided fuzzer: ``python -m tests.fuzz.soak [libFuzzer's options] [folder of new inputs]``.

Needs atheris. An input that breaks something is left in the current folder as ``crash-...``,
``timeout-...`` or ``oom-...``; ``python -m tests.fuzz.soak FILE`` reads it again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Final

import atheris

with atheris.instrument_imports(include=["dicom_node.receive"]):
    from tests.fuzz.target import LONGEST_INPUT, read_one

from tests.fuzz.make_corpus import CORPUS

_LIMITS: Final = ("-timeout=30", "-rss_limit_mb=1024", f"-max_len={LONGEST_INPUT}")


def main() -> None:
    """Run until told to stop."""
    given = sys.argv[1:]
    again = any(Path(argument).is_file() for argument in given)
    folders = [] if again else [str(CORPUS)]
    if not again and not any(Path(argument).is_dir() for argument in given):
        # What is new goes to the first folder: the corpus is its script's alone.
        folders.insert(0, tempfile.mkdtemp(prefix="new-inputs-"))
        sys.stderr.write(f"new inputs go to {folders[0]}\n")
    atheris.Setup([sys.argv[0], *_LIMITS, *given, *folders], read_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
