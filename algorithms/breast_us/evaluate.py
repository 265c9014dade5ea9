"""Figures of the model card: ``python algorithms/breast_us/evaluate.py``; see ultrasound/evaluate_folds.py."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from algorithms.breast_us.train import TRAINING  # noqa: E402
from algorithms.ultrasound.evaluate_folds import main  # noqa: E402

if __name__ == "__main__":
    main(TRAINING)
