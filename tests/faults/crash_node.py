"""A node that kills itself at a named boundary: ``python crash_node.py node.yaml [step:before|step:after]``.

``before`` is when the step's body begins; ``after`` is when all its effects are there, but the engine has not yet
recorded that it ran, so that it will be repeated.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dbos import DBOS


def kill_at(boundary: str) -> None:
    """Have the step's body wrapped before the workflow's modules are imported."""
    real = DBOS.step

    def step(*, name: str, **options: Any) -> Callable[[Any], Any]:
        def decorate(body: Callable[..., Any]) -> Any:
            def wrapped(*args: Any) -> Any:
                if boundary == f"{name}:before":
                    os.kill(os.getpid(), signal.SIGKILL)
                answer = body(*args)
                if boundary == f"{name}:after":
                    os.kill(os.getpid(), signal.SIGKILL)
                return answer

            wrapped.__qualname__ = body.__qualname__
            return real(name=name, **options)(wrapped)

        return decorate

    DBOS.step = step  # type: ignore[method-assign,assignment]


def main() -> None:
    if len(sys.argv) > 2:
        kill_at(sys.argv[2])
    from dicom_node import app, log
    from dicom_node.settings import load_settings
    from tests.faults.inline_pool import InlinePool

    app.WorkerPool = InlinePool  # type: ignore[misc,assignment]
    log.configure("json")
    start = app.Node.start

    def start_and_tell(node: app.Node) -> None:
        start(node)
        sys.stdout.write(f"{node.listener.port}\n")
        sys.stdout.flush()

    app.Node.start = start_and_tell  # type: ignore[method-assign]
    app.Node(load_settings(Path(sys.argv[1]))).serve()


if __name__ == "__main__":
    main()
