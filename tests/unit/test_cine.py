"""Studies to cines: every way of sending gives the same array, and what is no short-axis stack says why."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import MRSpectroscopyStorage

from dicom_node.errors import NotAnalysed
from dicom_node.run.cine import CineSource, read_cine
from dicom_node.testing.phantom_cine import WAYS, CineSequence, Way, cine_datasets, other_views, stack_pixels
from dicom_node.testing.series import phantom_uid, plane_affine, save, slice_datasets
from tests.conftest import data_dir

SEQUENCE = CineSequence(phases=10, slices=7, size=40, spacing=7.0)
VIEWS = other_views(SEQUENCE)
SINGLE: tuple[Way, ...] = tuple(w for w in WAYS if w != "multi_frame")


def read(tmp_path: Path, datasets: Sequence[Dataset]) -> CineSource:
    """Write the images and read them in a random order."""
    paths = save(tmp_path, datasets)
    random.Random(0).shuffle(paths)
    return read_cine(paths)


def is_whole(source: CineSource, sequence: CineSequence = SEQUENCE) -> bool:
    """Whether it is exactly the phantom."""
    cine = source.cine
    return (
        np.array_equal(cine.array, stack_pixels(sequence).astype(np.float32))
        and np.allclose(cine.affine, sequence.affine, atol=1e-6)
        and np.allclose(cine.trigger_times, sequence.trigger_times, atol=1e-5)
        and np.array_equal(cine.intervals, sequence.intervals)
    )


@pytest.mark.parametrize(("way", "views"), [*((way, True) for way in WAYS), ("one_series", False)])
def test_every_way_of_sending_gives_the_same_array(tmp_path: Path, way: Way, views: bool) -> None:
    source = read(tmp_path, cine_datasets(way, SEQUENCE) + (VIEWS if views else []))

    assert is_whole(source)
    assert source.cine.tags["PatientSize"] == 1.75
    assert source.cine.heart_rate == pytest.approx(60000 / np.median(SEQUENCE.intervals))
    if not views:
        assert source.notes == ()
    else:
        assert source.notes == (
            "3 images left out (series 1): marked as localizer",
            "30 images left out (series 3, 4, 5): not in the planes of the short-axis stack (other views, localizers)",
        )


@pytest.mark.parametrize("way", ["interleaved", "multi_frame"])
def test_every_plane_names_the_image_it_came_from(tmp_path: Path, way: Way) -> None:
    paths = save(tmp_path, cine_datasets(way, SEQUENCE))
    source = read_cine(paths)
    stored = {ds.SOPInstanceUID: ds.pixel_array for ds in map(pydicom.dcmread, paths)}

    for phase in range(SEQUENCE.phases):
        for k in range(SEQUENCE.slices):
            frame, header = source.cine.frames[phase][k], source.headers[phase][k]
            values = stored[frame.SOPInstanceUID]
            plane = values[frame.number - 1] if way == "multi_frame" else values
            assert np.array_equal(plane, source.cine.array[phase, k])
            assert header.SOPInstanceUID == frame.SOPInstanceUID
            assert "PixelData" not in header


def test_slices_go_from_base_to_apex_however_the_planes_are_stacked(tmp_path: Path) -> None:
    datasets = cine_datasets("one_series", SEQUENCE)
    for ds in datasets:  # seen from the other side: columns count the other way, and the normal points to the apex
        row, column = np.reshape([float(v) for v in ds.ImageOrientationPatient], (2, 3))
        far = np.array([float(v) for v in ds.ImagePositionPatient]) + (SEQUENCE.size - 1) * SEQUENCE.spacing * row
        ds.ImageOrientationPatient = [f"{v:.9f}" for v in (*-row, *column)]
        ds.ImagePositionPatient = [f"{v:.9f}" for v in far]
        ds.PixelData = ds.pixel_array[:, ::-1].tobytes()

    cine = read(tmp_path, datasets).cine

    assert np.array_equal(cine.array, stack_pixels(SEQUENCE)[..., ::-1])
    assert np.allclose(cine.affine[:3, 0], SEQUENCE.affine[:3, 0], atol=1e-6)
    assert np.allclose(cine.affine[:3, 2], -SEQUENCE.affine[:3, 2], atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_the_real_patient_is_a_stack_of_12_slices_and_20_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.WARN)
    folder = data_dir("cardiac_cine_sunnybrook", "dicom", "SC-HF-I-01")
    source = read_cine(list(folder.glob("*.dcm")))

    cine = source.cine
    assert cine.array.shape == (20, 12, 256, 256)
    assert np.allclose(cine.spacing, (10, 1.367188, 1.367188), atol=1e-4)
    numbers = [[int(h.InstanceNumber) for h in row] for row in source.headers]
    assert numbers == [[20 * k + phase + 1 for k in range(12)] for phase in range(20)]
    assert np.allclose(cine.trigger_times[:2, :2], [[18.75, 18.29], [56.25, 54.88]], atol=0.01)
    assert cine.intervals.tolist() == [750, 731, 779, 769, 759, 750, 759, 759, 759, 789, 779, 800]
    assert source.notes == (
        "The images of one series name different frames of reference; their positions were taken to be of one.",
    )


@pytest.mark.parametrize(("way", "phases"), [*((way, 4) for way in SINGLE), ("one_series", 1), ("shuffled", 10)])
def test_a_slice_that_was_repeated_is_used_once_the_latest(tmp_path: Path, way: Way, phases: int) -> None:
    source = read(tmp_path, cine_datasets(way, SEQUENCE, aborted={2: phases, 5: phases}))

    assert is_whole(source)
    (note,) = source.notes
    assert note.startswith(f"{2 * phases} images left out (series ")
    assert note.endswith("a slice of the stack that was acquired again, or not to its end")


@pytest.mark.parametrize(
    "kept", ["SeriesInstanceUID", "AcquisitionNumber", "AcquisitionTime", "NominalInterval", "InstanceNumber"]
)
def test_a_repeat_is_told_apart_by_what_there_is(tmp_path: Path, kept: str) -> None:
    datasets = cine_datasets("one_series", SEQUENCE, aborted={2: 5})
    for number, ds in enumerate(datasets):
        again = number >= len(datasets) - 5
        if again:  # the same heart rate: times that are as those of the whole acquisition
            twin = next(
                d
                for d in datasets
                if is_slice(d, 2) and abs(float(d.TriggerTime) / float(ds.TriggerTime) - 0.94) < 0.02
            )
            ds.TriggerTime = twin.TriggerTime
        for keyword in ("AcquisitionTime", "NominalInterval", "HeartRate"):
            if keyword != kept:
                del ds[keyword]
        if kept == "AcquisitionNumber":
            ds.AcquisitionNumber = 2 if again else 1
        if kept == "SeriesInstanceUID" and again:
            ds.SeriesInstanceUID = phantom_uid("again")
        if kept != "InstanceNumber":
            ds.InstanceNumber = (number * 37) % 89
    cine = read(tmp_path, datasets).cine
    assert np.array_equal(cine.array, stack_pixels(SEQUENCE))


@pytest.mark.parametrize("way", ["one_series", "series_per_phase"])
def test_derived_images_are_left_out(tmp_path: Path, way: Way) -> None:
    source = read(tmp_path, cine_datasets(way, SEQUENCE, derived=True))
    assert is_whole(source)
    assert source.notes == ("10 images left out (series 90): derived from other images",)


def test_a_stack_of_nothing_but_derived_images_is_used(tmp_path: Path) -> None:
    assert is_whole(read(tmp_path, cine_datasets(header={"ImageType": ["DERIVED", "PRIMARY", "M"]}, sequence=SEQUENCE)))


def test_a_phase_that_a_slice_lacks_is_not_used(tmp_path: Path) -> None:
    source = read(tmp_path, cine_datasets("interleaved", SEQUENCE, missing=[(0, 3), (0, 4), (6, 1)]))
    kept = [1, 2, 3, 4, 5, 7, 8, 9]
    assert np.array_equal(source.cine.array, stack_pixels(SEQUENCE)[kept])
    assert np.allclose(source.cine.trigger_times, SEQUENCE.trigger_times[kept], atol=1e-5)
    assert source.notes == ("3 images of the short-axis stack are missing: phases 1, 7 of 10 not used",)


@pytest.mark.parametrize("order", ["NominalCardiacTriggerDelayTime", "TemporalPositionIdentifier", "InstanceNumber"])
def test_phases_without_trigger_times_are_ranked_by_what_there_is(tmp_path: Path, order: str) -> None:
    datasets = cine_datasets("one_series", SEQUENCE)
    for ds in datasets:
        if order == "NominalCardiacTriggerDelayTime":
            ds.NominalCardiacTriggerDelayTime = float(ds.TriggerTime)
        elif order == "TemporalPositionIdentifier":
            ds.TemporalPositionIdentifier = (ds.InstanceNumber - 1) % SEQUENCE.phases + 1
            ds.InstanceNumber = 1000 - ds.InstanceNumber
        if order != "InstanceNumber":
            ds.TriggerTime = "0"
        else:
            del ds.TriggerTime

    cine = read(tmp_path, datasets).cine

    assert np.array_equal(cine.array, stack_pixels(SEQUENCE))
    if order == "NominalCardiacTriggerDelayTime":
        assert np.allclose(cine.trigger_times, SEQUENCE.trigger_times, atol=1e-5)
    else:
        assert np.isnan(cine.trigger_times).all()


def test_other_sequences_in_the_planes_of_the_stack_are_left_out(tmp_path: Path) -> None:
    late = [ds for ds in cine_datasets(sequence=SEQUENCE, study="1") if float(ds.TriggerTime) < 50]
    for ds in late:  # late enhancement: one image a slice
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = phantom_uid("late", ds.SOPInstanceUID)
        ds.SeriesInstanceUID, ds.SeriesNumber = phantom_uid("late"), 20
        ds.PixelSpacing = ["6.0", "6.0"]
    perfusion = []
    for beat in range(40):
        affine = SEQUENCE.affine
        affine[:3, 3] += 3.3 * affine[:3, 0]
        times = {"TriggerTime": "120", "TemporalPositionIdentifier": beat + 1, "AcquisitionDate": "20260105"}
        times |= {"AcquisitionTime": f"1001{beat:02d}", "SeriesNumber": 30, "PatientBirthDate": "19600101"}
        header = {k: VIEWS[0][k].value for k in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID")}
        perfusion += slice_datasets(np.zeros((1, 40, 40), np.uint16), affine, key=f"p{beat}", header=header | times)
        perfusion[-1].SeriesInstanceUID = phantom_uid("perfusion")

    source = read(tmp_path, [*cine_datasets(sequence=SEQUENCE), *late, *perfusion])

    assert is_whole(source)
    assert source.notes == (
        "40 images left out (series 30): a series over many heartbeats (perfusion, real time)",
        "7 images left out (series 20): one heart phase only (no cine)",
    )


def test_a_late_image_with_the_pixels_of_the_cine_is_no_phase_of_it(tmp_path: Path) -> None:
    late = [ds for ds in cine_datasets(sequence=SEQUENCE) if float(ds.TriggerTime) < 50]
    for ds in late:  # at the time where the next phase would be
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = phantom_uid("late", ds.SOPInstanceUID)
        ds.SeriesInstanceUID, ds.SeriesNumber = phantom_uid("late"), 20
        ds.TriggerTime = f"{float(ds.TriggerTime) * (2 * SEQUENCE.phases + 1):.3f}"
    source = read(tmp_path, [*cine_datasets(sequence=SEQUENCE), *late])
    assert is_whole(source)
    assert len(source.notes) == 1


def test_images_that_cannot_be_told_apart_in_another_view_do_no_harm(tmp_path: Path) -> None:
    again = copy.deepcopy(VIEWS[:10])
    for ds in again:
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = phantom_uid("again", ds.SOPInstanceUID)
        ds.TriggerTime, ds.InstanceNumber = "12", 1
    source = read(tmp_path, [*cine_datasets(sequence=SEQUENCE), *VIEWS[:10], *again])
    assert is_whole(source)
    assert source.notes == (
        "20 images left out (series 3): different images of the same slice at the same heart phase",
    )


def test_reports_phase_images_and_copies_are_left_out(tmp_path: Path) -> None:
    datasets = cine_datasets(sequence=SEQUENCE)
    phase_image, report = cine_datasets(sequence=SEQUENCE, patient_id="PHANTOM-1")[:2]
    phase_image.ImageType = ["ORIGINAL", "PRIMARY", "P"]
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = MRSpectroscopyStorage
    for keyword in ("Rows", "Columns", "PixelData"):
        del report[keyword]
    for name, ds in (("phase", phase_image), ("report", report)):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = phantom_uid(name)

    source = read(tmp_path, [*datasets, datasets[3], phase_image, report])

    assert is_whole(source)
    assert source.notes == (
        "1 image left out (series 10): no pixels (reports, presentation states)",
        "1 image left out (series 10): phase or velocity images",
        "1 image left out (series 10): sent twice",
    )


def test_a_single_slice_between_the_others_is_left_out(tmp_path: Path) -> None:
    extra = [ds for ds in cine_datasets(sequence=SEQUENCE) if is_slice(ds, 3)]
    for ds in extra:
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = phantom_uid("extra", ds.SOPInstanceUID)
        move(ds, 0.4)
    source = read(tmp_path, [*cine_datasets(sequence=SEQUENCE), *extra])
    assert is_whole(source)
    assert source.notes == ("10 images left out (series 10): parallel to the stack, but between its slices",)


def position(ds: Dataset) -> np.ndarray:
    return np.array([float(v) for v in ds.ImagePositionPatient])


def is_slice(ds: Dataset, k: int) -> bool:
    return bool(np.allclose(position(ds), SEQUENCE.affine[:3, 3] + k * SEQUENCE.affine[:3, 0], atol=1e-3))


def move(ds: Dataset, steps: float) -> None:
    ds.ImagePositionPatient = [f"{v:.6f}" for v in position(ds) + steps * SEQUENCE.affine[:3, 0]]


def whole(**options: Any) -> list[Dataset]:
    return cine_datasets(options.pop("way", "one_series"), SEQUENCE, **options)


def without(*slices: int) -> list[Dataset]:
    return [ds for ds in whole() if not any(is_slice(ds, k) for k in slices)]


def spoilt(change: Callable[[Dataset], Any], **options: Any) -> list[Dataset]:
    datasets = whole(**options)
    for ds in datasets:
        change(ds)
    return datasets


def put(keyword: str, value: Any, k: int | None = None) -> list[Dataset]:
    return spoilt(lambda ds: setattr(ds, keyword, value) if k is None or is_slice(ds, k) else None)


def axial() -> list[Dataset]:
    affine = plane_affine((1, 0, 0, 0, 1, 0), (8, 7, 7), (-140, -140, -40))
    datasets = []
    for phase in range(10):
        one = slice_datasets(stack_pixels(SEQUENCE)[phase], affine, key=f"axial/{phase}")
        for ds in one:
            ds.TriggerTime, ds.SeriesInstanceUID = str(phase * 40), phantom_uid("axial")
            for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
                setattr(ds, keyword, phantom_uid("axial", keyword))
        datasets += one
    return datasets


def two_alike() -> list[Dataset]:
    datasets = whole()
    others = [ds for ds in whole() if is_slice(ds, 2)]
    for ds in others:
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = phantom_uid("alike", ds.SOPInstanceUID)
        ds.InstanceNumber = 1
        ds.TriggerTime = "0"
    return datasets + others


def one_image_with(keyword: str, value: Any) -> list[Dataset]:
    datasets = whole()
    setattr(datasets[5], keyword, value)
    return datasets


def damaged_groups() -> list[Dataset]:
    datasets = whole(way="multi_frame")
    del datasets[0].PerFrameFunctionalGroupsSequence[3:]
    return datasets


REFUSED: list[tuple[str, Callable[[], list[Dataset]], str]] = [
    ("nothing", list, "^the study holds no images"),
    ("views only", lambda: VIEWS, r"no short-axis stack: no more than 1 parallel cine slice \(at least 5"),
    ("localizer only", lambda: VIEWS[-3:], r"none of the 3 instances .* \(3 of them: marked as localizer\)"),
    ("axial", axial, "no short-axis stack: the cine stack of 7 slices is turned by 6[34] degrees"),
    ("four slices", lambda: without(0, 1, 2), "no more than 4 parallel cine slices"),
    ("one phase", lambda: [ds for ds in whole() if float(ds.TriggerTime) < 50], "one heart phase only: there is no"),
    ("few phases", lambda: [ds for ds in whole() if float(ds.TriggerTime) < 300], "has only 3 heart phases"),
    ("slice lost", lambda: without(3), r"1 slice of the short-axis stack is missing \(after slice 3 of"),
    ("slices lost", lambda: without(2, 4), r"2 slices of the short-axis stack are missing \(after slice 2, 3 of"),
    ("aborted only", lambda: whole(missing=[(p, 2) for p in range(4, 10)]), "slice 3 .* has only 4 of 10 heart phases"),
    ("images lost", lambda: whole(missing=[(p, p % 7) for p in range(3, 6)]), "3 images .* only 7 of 10 heart phases"),
    ("field at the base", lambda: whole(other_field=[0]), r"different fields of view \(280 x 280 mm with 40 x 40"),
    ("field every other", lambda: whole(other_field=[1, 3, 5]), "different fields of view .* in 4 slices"),
    ("uneven", lambda: spoilt(lambda ds: move(ds, 0.3) if is_slice(ds, 6) else None), "unevenly spaced: 10.0 to 13.0"),
    ("shifted", lambda: spoilt(lambda ds: shift(ds) if is_slice(ds, 2) else None), "shifted against one another"),
    ("other reference", lambda: other_reference(), "do not share one frame of reference"),
    ("two alike", two_alike, "different images of the same slice at the same heart phase, and nothing tells"),
    ("two patients", lambda: one_image_with("PatientID", "OTHER"), "belong to 2 patients"),
    ("two studies", lambda: one_image_with("StudyInstanceUID", "2.25.7"), "belong to 2 studies"),
    ("colour", lambda: put("SamplesPerPixel", 3), "70 of them: colour"),
    ("no place", lambda: spoilt(lambda ds: delattr(ds, "ImagePositionPatient")), "70 of them: no position"),
    ("no reference", lambda: spoilt(lambda ds: delattr(ds, "FrameOfReferenceUID")), "70 of them: no Frame of Ref"),
    ("no pixels", lambda: one_image_with("PixelData", b"\0" * 20), "damaged, incomplete"),
    ("damaged groups", damaged_groups, "does not describe each of its frames"),
    (
        "many beats",
        lambda: spoilt(lambda ds: setattr(ds, "TriggerTime", f"{10 * float(ds.TriggerTime):.0f}")),
        "no cin",
    ),
]


def shift(ds: Dataset) -> None:
    row = np.array([float(v) for v in ds.ImageOrientationPatient[:3]])
    ds.ImagePositionPatient = [f"{v:.6f}" for v in position(ds) + 5 * row]


def slow_down(ds: Dataset) -> None:
    ds.TriggerTime = f"{10 * float(ds.TriggerTime):.0f}"


def other_reference() -> list[Dataset]:
    datasets = whole(way="series_per_slice")
    for ds in datasets:
        if is_slice(ds, 6):
            ds.FrameOfReferenceUID = "2.25.7"
    return datasets


@pytest.mark.parametrize(("make", "reason"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_is_no_sound_stack_says_why(tmp_path: Path, make: Callable[[], list[Dataset]], reason: str) -> None:
    with pytest.raises(NotAnalysed, match=reason):
        read(tmp_path, make())


def test_slices_with_room_for_another_phase_do_without_it(tmp_path: Path) -> None:
    datasets = whole(way="series_per_slice")
    for k in (1, 4):
        last = max((ds for ds in datasets if is_slice(ds, k)), key=lambda ds: float(ds.TriggerTime))
        another = copy.deepcopy(last)
        another.SOPInstanceUID = another.file_meta.MediaStorageSOPInstanceUID = phantom_uid("another", k)
        another.TriggerTime = f"{float(last.TriggerTime) * 21 / 19:.3f}"
        datasets.append(another)
    source = read(tmp_path, datasets)
    assert is_whole(source)
    assert source.notes == ("5 images of the short-axis stack are missing: phase 11 of 11 not used",)


def test_a_slice_with_more_phases_than_the_others_says_so(tmp_path: Path) -> None:
    finer = CineSequence(phases=12, slices=7, size=40, spacing=7.0)
    datasets = [ds for ds in whole() if not is_slice(ds, 3)]
    datasets += [ds for ds in cine_datasets(sequence=finer) if is_slice(ds, 3)]
    with pytest.raises(NotAnalysed, match=r"differ in their number of heart phases \(10 phases in 6 slices, 12 phases"):
        read(tmp_path, datasets)


def test_a_spoilt_height_is_left_out(tmp_path: Path) -> None:
    paths = save(tmp_path, whole())
    for path in paths:
        path.write_bytes(path.read_bytes().replace(b"DS\x04\x001.75", b"DS\x04\x001,75"))
    tags = read_cine(paths).cine.tags
    assert "PatientSize" not in tags
    assert tags["PatientWeight"] == 70


def test_a_spoilt_number_says_which(tmp_path: Path) -> None:
    paths = save(tmp_path, spoilt(lambda ds: setattr(ds, "TriggerTime", "12.75")))
    paths[0].write_bytes(paths[0].read_bytes().replace(b"12.75 ", b"12.x5 "))
    with pytest.raises(NotAnalysed, match="invalid Trigger Time"):
        read_cine(paths)


def test_any_damage_to_a_multi_frame_header_reads_or_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.IGNORE)
    small = CineSequence(phases=8, slices=5, size=8, spacing=35.0)
    (path,) = save(tmp_path, cine_datasets("multi_frame", small))
    data = path.read_bytes()
    chance, refused = random.Random(0), 0
    for _ in range(60):
        changed = bytearray(data)
        for _ in range(3):
            changed[chance.randrange(132, len(data) - 5120)] = chance.randrange(256)
        path.write_bytes(changed)
        try:
            read_cine([path])
        except NotAnalysed:
            refused += 1
    assert 5 < refused < 60
