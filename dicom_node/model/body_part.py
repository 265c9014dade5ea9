"""Which part of the body a series shows: inferred from all that speaks for one, because BodyPartExamined is
often empty or left at the scanner's default."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from dicom_node.model.evidence import UNKNOWN, Evidence, fold, number, numbers, spaced, tokens, values, words

# PS3.16 CID 4031 and Annex L: SNOMED CT and, of older objects, SNOMED RT (schemes SRT, SNM3, 99SDM).
_CODES: Final[Mapping[str, str]] = {
    "12738006": "brain", "T-A0100": "brain", "69536005": "brain", "T-D1100": "brain",
    "45048000": "neck", "T-D1600": "neck",
    "421060004": "spine", "122494005": "spine", "T-11501": "spine", "122495006": "spine", "T-11502": "spine",
    "122496007": "spine", "T-11503": "spine",
    "51185008": "chest", "T-D3000": "chest",
    "80891009": "heart", "T-32000": "heart",
    "76752008": "breast", "T-04000": "breast", "63762007": "breast", "73056007": "breast", "80248007": "breast",
    "19100000": "breast", "33564002": "breast", "76365002": "breast", "77831004": "breast", "399011000": "breast",
    "818981001": "abdomen", "818983003": "abdomen", "113345001": "abdomen", "T-D4000": "abdomen",
    "12921003": "pelvis", "816092008": "pelvis", "T-D6000": "pelvis",
    "41216001": "prostate", "T-92000": "prostate",
    "69748006": "thyroid", "T-B6000": "thyroid", "119281005": "thyroid", "29565003": "thyroid",
    "79163004": "thyroid", "40867004": "thyroid", "362892003": "thyroid",
    "16982005": "shoulder", "T-D2220": "shoulder",
    "24136001": "hip", "T-15710": "hip",
    "72696002": "knee", "T-D9200": "knee",
    "70258002": "ankle", "T-15750": "ankle",
}  # fmt: skip

# Whole words, or beginnings of words (with *), without accents, in the order in which they are tried. The brain
# stands first: a study of "brain and cervical spine" whose series name neither must not be lost for the brain.
_WORDS: Final[Mapping[str, str]] = {
    "brain": "brain* head headneck cerebr* zerebr* schadel* schaedel* kopf* neurocran* neurokran* cran* "
    "kranial* kranio* kranium encephal* encefal* enzephal* hirn* gehirn* tete hersen* hoofd cabeza cabeca testa mozg* "
    "glowa glowy golov* hjarn* hjern* aivot beyin kafa hippocamp* hippokamp* hipocamp* hypophys* "
    "pituitar* голов* мозг* mozek mozku koponya agy εγκεφαλ*",
    "spine": "spine cspine tspine lspine ctspine tlspine lsspine spinal wirbelsaule* hws bws lws columna rachis "
    "rachidien* lombaire* lumbar* lumbal* sacrum sacral* cervicale cervical wervelkolom colonna позвоноч* kregoslup*",
    "breast": "breast* mamma* mammo* mama mamas mamar* brust brustdrus* seno sein seins borst borsten piersi "
    "piersio* sutk* bryst* brost brosten rinta rinnat emlo prsu prsa prsou meme memeler молочн* μαστ*",
    "prostate": "prostat* простат*",
    "thyroid": "thyroid* thyreo* schilddru* thyroide tiroid* tireoid* tyreo* tyroid* schildklier* tarczyc* stitna "
    "stitne kilpirauh* skoldkort* skjoldbrusk* pajzsmirigy* struma goitre goiter guatr щитовидн* щитоподібн* θυρεοειδ*",
    "heart": "heart cardiac* cardio* coeur herz* kardio* corazon cuore сердц* kardiak*",
    "head": "orbit* orbita* sinus* nnh tmj kiefergelenk* iac iam felsenbein* mastoid* temporalbone facial gesicht*",
    "neck": "neck hals halsweichteil* cou cuello collo шеи шея carotid* karotis",
    "chest": "chest thorax thorac* thorak* lung* lunge torax poumon* pulmon* грудн* легк*",
    "pelvis": "pelvis pelvic becken bassin bekken bacino таз uter*",
    "abdomen": "abdom* liver leber foie higado fegato kidney* niere* mrcp pancrea* pankrea* oberbauch бюш* брюшн*",
    "shoulder": "shoulder* schulter* epaule hombro spalla schouder плеч*",
    "hip": "hip hips hufte* hanche cadera anca heup",
    "knee": "knee* knie genou rodilla ginocchio колен*",
    "ankle": "ankle foot fuss sprunggelenk* cheville pied tobillo enkel voet стоп*",
    "extremity": "extremity extremities hand wrist elbow handgelenk ellenbogen arm leg femur tibia humerus forearm",
    "whole_body": "wholebody ganzkorper*",
}

# Languages without spaces between words: looked for anywhere.
_CHARACTERS: Final[Mapping[str, Sequence[str]]] = {
    "spine": ("脊柱", "脊椎", "颈椎", "頸椎", "腰椎", "胸椎", "척추"),
    "breast": ("乳腺", "乳房", "유방", "เต้านม", "tuyen vu", "ثدي"),
    "prostate": ("前列腺", "前立腺", "전립선"),
    "thyroid": ("甲状腺", "甲狀腺", "갑상선", "ไทรอยด์", "tuyen giap", "درقي"),
    "heart": ("心脏", "心臓", "심장"),
    "brain": ("脑", "脳", "腦", "颅", "頭", "头", "海马", "海馬", "뇌", "두부"),
    "chest": ("胸部", "肺", "흉부"),
    "abdomen": ("腹", "肝", "복부"),
    "pelvis": ("盆腔", "骨盤", "골반"),
    "knee": ("膝", "무릎"),
    "shoulder": ("肩", "어깨"),
}

# Sequences and studies that are done of the brain and hardly of anything else; tried when no word names a part.
_BRAIN_SEQUENCES: Final = "mprage mprages rage adni flair bravo fspgrbravo mdeft tractography dti bold fmri asl"

# Heads that are not the head.
_OTHER_HEAD: Final = re.compile(
    r"\b(femoral|femur|humeral|humerus|radial|fibular|pancrea\w*|metatarsal|metacarpal) head\b"
    r"|\bhead of (?:the )?(femur|humerus|radius|fibula|pancreas)"
)

OTHER: Final = "other"
"""None of those that have a name here: only ultrasound images are called so, by their application or probe."""

BODY_PARTS: Final = (*_WORDS, OTHER, UNKNOWN)
"""What a rule may ask for."""

_DESCRIPTIONS = ("SeriesDescription", "ProtocolName", "StudyDescription")


def infer_body_part(tags: Mapping[str, Any]) -> Evidence:
    """The part of the body, one of ``BODY_PARTS``.

    Evidence in order: anatomic region codes, BodyPartExamined, the descriptions of series, protocol and study, names
    of sequences that are used for the brain only, and the field of view.
    """
    for code in values(tags, "AnatomicRegionSequence"):
        found_code = coded_part(code)
        if found_code:
            return Evidence(found_code[0], f"AnatomicRegionSequence: {found_code[1]}")
    for keyword in ("BodyPartExamined", *_DESCRIPTIONS):
        for text in values(tags, keyword):
            found = named_part(str(text))
            if found:
                return Evidence(found[0], f"{keyword}: {found[1]}")
    if "MR" in words(tags, "Modality"):
        for keyword in _DESCRIPTIONS:
            for text in values(tags, keyword):
                sequence = _match(tokens(str(text)), _BRAIN_SEQUENCES)
                if sequence:
                    return Evidence("brain", f"{keyword}: {sequence}")
        return _from_field_of_view(tags)
    return Evidence(UNKNOWN, "")


def coded_part(code: Any) -> tuple[str, str] | None:
    """The part that an anatomic code names, and the Code Value; ``code`` as the index keeps it."""
    value = str(code.get("CodeValue", "")) if isinstance(code, Mapping) else str(code)
    return (_CODES[value], value) if value in _CODES else None


def named_part(text: str, among: Collection[str] = ()) -> tuple[str, str] | None:
    """The part that a text names, and the word that names it; ``among`` these alone, if any are given."""
    text = _OTHER_HEAD.sub(lambda found: found[1] or found[2], fold(spaced(text)))
    found = tokens(text)
    # "C SPINE", "head-neck" and "whole body" are also written apart.
    found += [a + b for a, b in pairwise(found) if len(a) == 1 or a in ("head", "whole")]
    for part, listed in _WORDS.items():
        word = _match(found, listed) if not among or part in among else None
        if word:
            return part, word
    for part, characters in _CHARACTERS.items():
        for word in characters:
            if (not among or part in among) and fold(word) in text:
                return part, word
    return None


def _match(found: Sequence[str], listed: str) -> str | None:
    """The first listed word that is among the found ones, as it is listed."""
    for word in listed.split():
        beginning = word.removesuffix("*")
        if any(token.startswith(beginning) if word.endswith("*") else token == word for token in found):
            return beginning
    return None


def _from_field_of_view(tags: Mapping[str, Any]) -> Evidence:
    """A 3D gradient echo of 190 to 280 mm, head first: joints are imaged smaller, trunks larger or feet first."""
    spacing, rows, columns = numbers(tags, "PixelSpacing"), number(tags, "Rows"), number(tags, "Columns")
    if len(spacing) != 2 or not rows or not columns:
        return Evidence(UNKNOWN, "")
    height, width = spacing[0] * rows, spacing[1] * columns
    thickness = number(tags, "SliceThickness") or 99.0
    head_first = all(p.startswith("HF") for p in words(tags, "PatientPosition"))
    volumetric = "3D" in words(tags, "MRAcquisitionType") and "GR" in words(tags, "ScanningSequence")
    if volumetric and head_first and thickness <= 2.0 and 190 <= max(height, width) <= 280:
        return Evidence("brain", f"field of view: {height:.0f} x {width:.0f} mm in 3D")
    return Evidence(UNKNOWN, "")
