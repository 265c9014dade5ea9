"""Train every network of this algorithm: ``python algorithms/breast_us/train.py``; see ultrasound/train_jobs.py."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from algorithms.breast_us import train_data  # noqa: E402
from algorithms.ultrasound.train_jobs import Plan, Training, main  # noqa: E402

TRAINING = Training(
    HERE,
    train_data.read,
    train_data.GRADES,
    {
        "find": Plan(700, 16),
        "grade": Plan(3000, 16),
        "grade_ace": Plan(1500, 16),
        "grade_plain": Plan(1500, 16),
    },
)

if __name__ == "__main__":
    main(TRAINING)
