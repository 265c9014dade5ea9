"""What the model cards of the ultrasound algorithms say beside their figures; see ``evaluate_card.py``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """The words of one card."""

    title: str
    outputs: int
    organ_name: str
    subjects: str
    what: str
    graded: str
    start: str
    data: str
    limits: str
    citations: str
    goals: Mapping[str, str]


TEMPLATE = """# {title} 1.0.0

**Research use only.** Not a medical device; not for diagnosis or treatment decisions.

{what}

## How it works
1. **Which images**: B-mode pictures and clips of the study. Doppler, elastography, M-mode, captures and
   empty pictures are
   left out and named. Text and calipers are filled in; only the tissue region is looked at. Where the
   header names the
   other organ, or names none and the pixels look like another organ, the image is not analysed, and the
   reason says so.
2. **Find** (128 x 128 pixels, the whole region): an encoder with a light decoder and group normalisation
   ({find_size} M
   weights) outlines what may be a lesion; up to four a region.
3. **Outline and grade** (128 x 128 pixels, the lesion and as much again around it): the same kind of network
   ({grade_size} M weights), with a head that looks at the lesion it has outlined, at its margin, and at
   what lies below
   it. {graded}
4. **Folds**: the networks of the folds are averaged, each on the image and its mirror image. A clip is
   answered by the mean of its frames, which are not mirrored, as that takes half the time{unmirrored}; the key frame
   is where the lesion is largest and surest.
5. **Probability**: logistic regression on the held-out folds. Between two limits, outside of which 95% of
   each class are
   right, the answer is "indeterminate". A picture whose brightness and grain are unlike 99.5% of the
   training images is
   said to be so, and is not analysed.

A result does not depend on what else is in a batch. {start}

## Data
{data}

## Figures
Cross-validated: {measured}. Each image is found, outlined and graded by networks that never saw its
patient; the
probabilities of each fold come from a fit on the others. In brackets: 95% bootstrap intervals, drawn by
patient.

{table}

{ablation}

**The other organ, by the pixels alone**: {organ}

**Speed** (`python benchmarks/worklist.py`): {speed}

## Limits
{limits}
- Lengths are in mm only where the image says how large its pixels are; else in pixels, and said so.
- The side is what the header says; where it says nothing, or both, none is given.
- Probabilities are those of the data above, where the share of each class is not that of a clinic.

## Reproduce
```
python algorithms/ultrasound/train_organ.py
python algorithms/{name}/train.py             # all folds, from ../shared/data
python algorithms/{name}/evaluate.py --write
python algorithms/{name}/evaluate.py --given
python algorithms/{name}/evaluate.py --unmirrored
python algorithms/{name}/train.py --job grade_ace-1     # and the others of the ablation, grade_plain-1 ...
python algorithms/{name}/evaluate.py --ablation ace --models .work/{name}       # --folds 4 5: of those alone
python algorithms/{name}/evaluate.py --ablation plain --models .work/{name}
python algorithms/ultrasound/evaluate_organ.py
python algorithms/ultrasound/evaluate_card.py --help
```

## Citations
{citations}
- Rizzi A, Gatta C, Marini D. A new algorithm for unsupervised global and local color correction. Pattern
  Recognition
  Letters 2003;24:1663. Getreuer P. Automatic Color Enhancement (ACE) and its fast implementation. Image
  Processing On
  Line 2012;2:266.
- Cai L, Gao J, Zhao D. A review of the application of deep learning in medical image classification and
  segmentation.
  Ann Transl Med 2020;8:713.
"""

CARDS: Mapping[str, Text] = {
    "breast_us": Text(
        title="Breast ultrasound",
        outputs=4,
        organ_name="breast",
        subjects="patients",
        what="""\
Ultrasound images and clips of the breast go in. Out come the outline of each lesion on its own frame, its
longest and
shortest axis, and the probability that it is malignant.""",
        graded="It learns the biopsy's answer, and beside it the reader's BI-RADS category.",
        start="""\
Training starts from random weights. The grading networks of folds 1 to 3 were trained for the 3,000 steps of
train.py, those of folds 4 and 5 for 1,500. The first 1,500 ran under a plan of 1,500, so that the learning rate rose
again after them (the first 1,000 of fold 2 under a plan of more).""",
        data="""\
BUS-BRA (Gómez-Flores et al. 2023): 1,875 B-mode images of 1,064 patients with biopsied lesions, 1,268
benign and 607
malignant, outlined by readers, with BI-RADS categories; four scanners (GE Logiq 5 and 7, Toshiba Aplio 300,
U-Systems)
of one hospital; here with the longest side of 256 pixels. The data set's own folds, by patient. Its licence
allows use,
change and distribution without restriction, and asks for the citation below. The images are not part of
this repository.""",
        limits="""\
- Every lesion in the data was suspicious enough for a biopsy. A normal breast, a cyst that nobody would
  puncture, a lymph
  node or a scar is not what it has learned.
- One hospital, four scanners. Other scanners are covered by augmentation, not by evidence.
- It sees single pictures: no history, no mammogram, no second plane.""",
        citations="""\
- Gómez-Flores W, Gregorio-Calas MJ, Coelho de Albuquerque Pereira W. BUS-BRA: a breast ultrasound dataset
  for assessing
  computer-aided diagnosis systems. Medical Physics 2023.""",
        goals={"auc": "0.9325", "dice": "0.88"},
    ),
    "thyroid_us": Text(
        title="Thyroid ultrasound",
        outputs=6,
        organ_name="thyroid",
        subjects="cases",
        what="""\
Ultrasound images and clips of the thyroid go in. Out come the outline of each nodule on its own frame, its
longest and
shortest axis, and the probability that a radiologist would call it suspicious (TI-RADS 4a to 5, not 2 or 3).

**It predicts a reading, not pathology**, and says so in every result; it never speaks of malignancy.""",
        graded="It learns whether the reading was suspicious, and beside it the TI-RADS category.",
        start="""\
Training starts from the breast's networks as they were first released. The finding networks ran under plans of 300 and
1,200 steps before they went on to the 3,000 of train.py, so that the learning rate rose again each time. Those
of the ablation start from the breast's too, which learned without contrast enhancement.""",
        data="""\
DDTI (Pedraza et al. 2015): 384 B-mode frames of 560 x 360 pixels with outlines; the frames that have a
TI-RADS category
count for the grade, of which few are of low suspicion; all outlines count for the outline. Frames are cut
to their sector,
because some show the category as text below it, and of near duplicates one is kept. Folds by patient, or by
patients who
share images. The data set is published as an open access database; no licence text was found with it. The
images are
not part of this repository.""",
        limits="""\
- The truth is one reading. Readers differ, and a suspicious reading is not a carcinoma.
- Few nodules of low suspicion: the intervals above are wide for that reason.
- One data set. Other scanners are covered by augmentation, not by evidence.""",
        citations="""\
- Pedraza L, Vargas C, Narváez F, Durán O, Muñoz E, Romero E. An open access thyroid ultrasound image
  database. Proc.
  SPIE 9287, 10th International Symposium on Medical Information Processing and Analysis, 2015.""",
        goals={"auc": "0.80", "dice": "0.80"},
    ),
}
