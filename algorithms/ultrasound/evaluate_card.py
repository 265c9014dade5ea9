"""Print the model card of an ultrasound algorithm from its figures: nothing in it is typed by hand.

python algorithms/breast_us/evaluate.py --out FOLDER/found.json
python algorithms/breast_us/evaluate.py --given --out FOLDER/given.json
python algorithms/breast_us/evaluate.py --unmirrored --out FOLDER/unmirrored.json           (may be left out)
python algorithms/breast_us/evaluate.py --ablation ace --models .work/breast_us --out FOLDER/ace.json
python algorithms/breast_us/evaluate.py --ablation plain --models .work/breast_us --out FOLDER/plain.json
    (networks that are not released; leave both out if not trained)
python algorithms/ultrasound/evaluate_organ.py --out FOLDER/organ.json       (leave it out if not trained)
python benchmarks/worklist.py --algorithm breast_us --json > FOLDER/speed.json    (leave it out if not measured)
python algorithms/ultrasound/evaluate_card.py breast_us FOLDER > algorithms/breast_us/MODEL_CARD.md
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from algorithms.ultrasound import evaluate_card_text as card_text  # noqa: E402
from algorithms.ultrasound import networks  # noqa: E402

Figures = dict[str, Any]
WIDTH = 118


def number(figure: Figures, percent: bool = False) -> str:
    """A value with its interval."""
    times, digits = (100, 1) if percent else (1, 3)
    value, (low, high) = figure["value"] * times, (v * times for v in figure["ci95"])
    unit = "%" if percent else ""
    return f"{value:.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f})"


def figures_table(found: Figures, given: Figures, goals: Figures) -> str:
    """The whole way, from pictures, beside the second stage alone, from labelled boxes."""
    rows = [
        ("area under the ROC curve", *(number(f["auc"]) for f in (found, given)), goals["auc"]),
        ("the same by patient", *(f"{f['auc_by_subject']:.3f}" for f in (found, given)), ""),
        (
            "sensitivity at 90% specificity",
            *(number(f["sensitivity_at_90_specificity"], True) for f in (found, given)),
            "",
        ),
        ("Dice of the outline, mean", *(number(f["dice"]) for f in (found, given)), goals["dice"]),
        ("the same, median", *(f"{f['dice_median']:.3f}" for f in (found, given)), ""),
        ("lesions found (Dice above 0.3)", *(f"{100 * f['found']:.1f}%" for f in (found, given)), ""),
        ("expected calibration error", *(f"{f['expected_calibration_error']:.3f}" for f in (found, given)), "0.05"),
    ]
    head = "| | found by itself | from labelled boxes | goal |\n|---|---|---|---|\n"
    return head + "\n".join(f"| {' | '.join(row)} |" for row in rows)


def folds_of(figures: Figures) -> str:
    """Over what was measured."""
    folds = figures["folds"]
    some = f"fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))} of five"
    all_folds = "all five folds" if len(folds) == 5 else some
    what = "lesions" if figures.get("boxes") == "given" else "images"
    return f"{figures['lesions']} {what} of {figures['subjects']} {{subjects}}, {all_folds}"


def ablation(plain: Figures | None, ace: Figures | None) -> str:
    """AUC with and without adaptive contrast enhancement, both from labelled boxes."""
    if ace is None or plain is None:
        return "Adaptive contrast enhancement (ACE) was not compared: its networks were not trained."
    if ace["folds"] != plain["folds"]:
        raise SystemExit(f"the ablation is of folds {ace['folds']} and {plain['folds']}; it takes the same")
    better = ace["auc"]["value"] > plain["auc"]["value"]
    used = "The released networks do without it nevertheless" if better else "The released networks do without it"
    return (
        f"**Ablation** ({folds_of(ace)}; both trained equally long, from labelled boxes): with adaptive contrast "
        f"enhancement (ACE) before the second stage the area under the curve is {number(ace['auc'])}, without it "
        f"{number(plain['auc'])}; Dice {number(ace['dice'])} and {number(plain['dice'])}. {used}."
    )


def unmirrored_part(found: Figures, unmirrored: Figures | None) -> str:
    """What it costs not to mirror."""
    if unmirrored is None:
        return ""
    if unmirrored["folds"] != found["folds"]:
        raise SystemExit(f"the images that were not mirrored are of folds {unmirrored['folds']}, not {found['folds']}")
    area, dice = ((unmirrored[what]["value"], found[what]["value"]) for what in ("auc", "dice"))
    return (
        f" (single images that are not mirrored: area under the curve {area[0]:.3f} in place of {area[1]:.3f}, "
        f"Dice {dice[0]:.3f} in place of {dice[1]:.3f})"
    )


def organ_part(organ: Figures | None, wanted: str) -> str:
    """How well images of the other organ are turned away."""
    if organ is None:
        return "there is no classifier: images whose headers do not name the organ are not analysed."
    away, taken_in = number(organ[f"{wanted}_turned_away"], True), number(organ[f"others_taken_for_{wanted}"], True)
    coarse, texture = (number(organ[how][f"{wanted}_turned_away"], True) for how in ("coarse", "texture"))
    lines = [
        f"of the {wanted} images {away} are turned away, of all others {taken_in} are taken in (area under the curve "
        f"between the organs {organ['auc_breast_thyroid']:.3f}). The limit between the two was chosen on these very "
        f"images, so others may fare a little worse. The organs come from two data sets, which nine "
        f"numbers of brightness and grain alone tell apart with {organ['nine numbers']:.3f}; that is why the network "
        f"sees ranks at a low resolution. At half of that, {coarse} are turned away; of images whose tiles were "
        f"mixed {texture}: the fewer, the more it goes by texture."
    ]
    if wanted == "breast":
        for name, figures in organ["scanner left out"].items():
            away = number(figures["breast_turned_away"], True)
            lines.append(f"With no image of {name} in training, {away} of its images are turned away.")
    return " ".join(lines)


def speed_part(speed: Figures | None) -> str:
    """As measured."""
    if speed is None:
        return "Not measured."
    text = (
        f"{speed['one_image_s']} s for one image, {speed['clip_frame_s']} s for a frame of a clip, "
        f"{speed['images_per_s_together']} images/s of a worklist of {speed['studies']}, on {speed['device']} "
        f"({speed['threads']} threads, load {speed['load']})."
    )
    if speed["weights"] != "installed":
        text += " Measured with untrained networks of the same size."
    return text


def card(name: str, figures: Figures) -> str:
    """The whole card."""
    text = card_text.CARDS[name]
    sizes = [
        sum(p.numel() for p in network.parameters()) / 1e6
        for network in (networks.find_network(), networks.grade_network(text.outputs))
    ]
    whole = card_text.TEMPLATE.format(
        **vars(text),
        find_size=f"{sizes[0]:.1f}",
        grade_size=f"{sizes[1]:.1f}",
        measured=folds_of(figures["found"]).format(subjects=text.subjects),
        table=figures_table(figures["found"], figures["given"], text.goals),
        ablation=ablation(figures.get("plain"), figures.get("ace")).format(subjects=text.subjects),
        unmirrored=unmirrored_part(figures["found"], figures.get("unmirrored")),
        organ=organ_part(figures.get("organ"), text.organ_name),
        speed=speed_part(figures.get("speed")),
        name=name,
    )
    return filled(whole)


def filled(text: str) -> str:
    """Paragraphs and list items in lines of equal length; tables, headings and code as they are."""
    lines: list[str] = []
    block: list[str] = []

    def end() -> None:
        if block:
            mark = re.match(r"- |\d+\. ", block[0])
            indent = " " * len(mark[0]) if mark else ""
            joined = " ".join(line.strip() for line in block)
            options = {"break_long_words": False, "break_on_hyphens": False}
            lines.extend(textwrap.wrap(joined, WIDTH, subsequent_indent=indent, **options))
            block.clear()

    code = False
    for line in text.splitlines():
        code ^= line.startswith("```")
        if code or not line or line[0] in "|#`":
            end()
            lines.append(line)
            continue
        if re.match(r"- |\d+\. ", line):
            end()
        block.append(line)
    end()
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=tuple(card_text.CARDS))
    parser.add_argument("figures", type=Path, help="the folder with found.json, given.json, ...")
    chosen = parser.parse_args()
    read = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted(chosen.figures.glob("*.json"))}
    missing = [name for name in ("found", "given") if name not in read]
    if missing:
        raise SystemExit(f"{chosen.figures} lacks {' and '.join(f'{m}.json' for m in missing)}; see --help")
    print(card(chosen.name, read), end="")


if __name__ == "__main__":
    main()
