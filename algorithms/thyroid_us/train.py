"""Train every network of this algorithm: ``python algorithms/thyroid_us/train.py``; see ultrasound/train_jobs.py.

The networks start from those of the breast, which must be there (``algorithms/breast_us/models``, or ``--start``).
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from algorithms.thyroid_us import train_data  # noqa: E402
from algorithms.ultrasound.train_jobs import Plan, Training, main  # noqa: E402

TRAINING = Training(
    HERE,
    train_data.read,
    train_data.GRADES,
    {
        "find": Plan(3000, 16, rate=1e-3),
        "grade": Plan(600, 16, rate=1e-3, balanced=True),
        "grade_ace": Plan(600, 16, rate=1e-3, balanced=True),
        "grade_plain": Plan(600, 16, rate=1e-3, balanced=True),
    },
    start=HERE.parent / "breast_us" / "models",
)

if __name__ == "__main__":
    main(TRAINING)
