"""Small folders in the official layouts of the four datasets, as their downloads look."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

from cbirdb.datasets.chexpert import OBSERVATIONS
from tests.conftest import picture_bytes

NIH_HEADER = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient {sex},View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
NIH_ROWS = (
    # image, findings, follow-up, patient, age, sex, view
    ("00000001_000.png", "Cardiomegaly", 0, 1, "057", "M", "PA"),
    ("00000001_001.png", "Cardiomegaly|Emphysema", 1, 1, "058", "M", "PA"),
    ("00000002_000.png", "No Finding", 0, 2, "080", "M", "AP"),
    ("00000003_000.png", "Effusion", 0, 3, "074", "F", "PA"),
    ("00000003_001.png", "Pleural_Thickening", 1, 3, "411", "F", "PA"),
    ("00000004_000.png", "Hernia", 0, 4, "082", "M", "AP"),
)
NIH_TEST = ("00000003_000.png", "00000003_001.png")


def write_nih14(root: Path, *, old: bool = False, images: bool = True) -> Path:
    """The newer release; or the older, with another column name, ``058Y`` and a comma at the end of each line."""
    root.mkdir(parents=True)
    end = "," if old else ""
    lines = [NIH_HEADER.format(sex="Gender" if old else "Sex") + end]
    for image, findings, follow_up, patient, age, sex, view in NIH_ROWS:
        written = f"{age}Y" if old else str(int(age))
        lines.append(f"{image},{findings},{follow_up},{patient},{written},{sex},{view},2682,2749,0.143,0.143{end}")
    name = "Data_Entry_2017.csv" if old else "Data_Entry_2017_v2020.csv"
    (root / name).write_text("\n".join(lines) + "\n")
    (root / "test_list.txt").write_text("\n".join(NIH_TEST))
    rest = [row[0] for row in NIH_ROWS if row[0] not in NIH_TEST]
    (root / "train_val_list.txt").write_text("\n".join(rest) + "\n")
    if images:
        for number, (image, *_) in enumerate(NIH_ROWS):
            folder = root / (f"images_{1 + number % 2:03}/images" if old else "images")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / image).write_bytes(picture_bytes(number))
    return root


def write_key(folder: Path) -> Path:
    """Always the same, and one with which nobody is drawn for val: pseudonyms decide who takes part in an evaluation."""
    path = folder / "pseudonym.key"
    path.write_text("03" * 32 + "\n")
    path.chmod(0o600)
    return path


CHEXPERT_TRAIN = (
    # path below the dataset's folder, sex, age, front, projection, observations
    ("train/patient00001/study1/view1_frontal.jpg", "Female", 68, "Frontal", "AP", {"No Finding": 1}),
    ("train/patient00002/study1/view1_frontal.jpg", "Male", 87, "Frontal", "AP", {"Edema": 1, "Pneumonia": -1}),
    ("train/patient00002/study2/view1_frontal.jpg", "Male", 88, "Frontal", "PA", {"Edema": 1, "Fracture": 0}),
    ("train/patient00002/study2/view2_lateral.jpg", "Male", 88, "Lateral", "", {"Edema": 1, "Fracture": 0}),
    ("train/patient00003/study1/view1_frontal.jpg", "Unknown", 0, "Frontal", "AP", {"Edema": 1, "Fracture": 1}),
    ("train/patient00004/study1/view1_frontal.jpg", "Female", 41, "Frontal", "AP", {"Edema": 1, "Support Devices": 1}),
)
CHEXPERT_VALID = (
    ("valid/patient64541/study1/view1_frontal.jpg", "Male", 73, "Frontal", "AP", {"Edema": 1, "Support Devices": 0}),
)


def write_chexpert(root: Path, *, small: bool = True, zipped: bool = False, images: bool = True) -> Path:
    """Either size; columns in an order of their own, as some files have it."""
    folder = root / ("CheXpert-v1.0-small" if small else "CheXpert-v1.0")
    folder.mkdir(parents=True)
    header = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *OBSERVATIONS]
    swapped = [*header[:5], *reversed(header[5:])]
    for name, rows, columns in (("train.csv", CHEXPERT_TRAIN, header), ("valid.csv", CHEXPERT_VALID, swapped)):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        for path, sex, age, front, projection, found in rows:
            values = {
                "Path": f"{folder.name}/{path}",
                "Sex": sex,
                "Age": age,
                "Frontal/Lateral": front,
                "AP/PA": projection,
            }
            values |= {key: f"{value:.1f}" for key, value in found.items()}
            writer.writerow([values.get(column, "") for column in columns])
        data = text.getvalue().encode()
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)
        for number, (path, *_) in enumerate(rows):
            if images:
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(picture_bytes(hash(path) % 1000 + number, file_format="JPEG"))
    return folder


MIMIC_ROWS = (
    # subject, study, dicom, split, view, date, observations of the study
    ("10000032", "50414267", "02aa804e", "train", "PA", "21800506", {"No Finding": "1.0"}),
    ("10000032", "53189527", "2a2277a9", "train", "LATERAL", "21800626", {"Edema": "1.0", "Pneumonia": "-1.0"}),
    ("10000764", "57375967", "096052b7", "validate", "AP", "21321015", {"Edema": "1.0", "Fracture": "1.0"}),
    ("11000935", "51178377", "7d79ea20", "test", "AP", "21270822", {"Edema": "1.0"}),
    ("11000935", "51178378", "8d79ea20", "test", "", "21270823", None),
)


def write_mimic(root: Path, *, zipped: bool = True, images: bool = True) -> Path:
    """Three tables and the images; the last study has no row in the table of labels."""
    root.mkdir(parents=True)
    splits, metadata, labels = (
        ["dicom_id,study_id,subject_id,split"],
        [
            "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime"
        ],
        [],
    )
    labels.append(",".join(["subject_id", "study_id", *OBSERVATIONS]))
    for number, (subject, study, dicom, split, view, day, found) in enumerate(MIMIC_ROWS):
        splits.append(f"{dicom},{study},{subject},{split}")
        metadata.append(f'{dicom},{subject},{study},"CHEST (PA AND LAT)",{view},3056,2544,{day},213014.531')
        if found is not None:
            labels.append(",".join([subject, study, *[found.get(name, "") for name in OBSERVATIONS]]))
        if images:
            path = root / f"files/p{subject[:2]}/p{subject}/s{study}/{dicom}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture_bytes(number, file_format="JPEG"))
    for name, lines in (("split", splits), ("metadata", metadata), ("chexpert", labels)):
        data = ("\n".join(lines) + "\n").encode()
        path = root / f"mimic-cxr-2.0.0-{name}.csv"
        if zipped:
            path.with_suffix(".csv.gz").write_bytes(gzip.compress(data))
        else:
            path.write_bytes(data)
    return root


RADIMAGENET = {
    "train": ("CT/lung/normal/lung-normal000032.png", "MR/knee/acl_pathology/acl000001.png", "US/liver/usn053022.png"),
    "val": ("US/thyroid_nodule/usn000001.png",),
    "test": ("CT/lung/nodule/lung-nodule000001.png",),
}


def write_radimagenet(root: Path, *, images: bool = True) -> Path:
    """Three lists and the images below ``radiology_ai``."""
    root.mkdir(parents=True)
    for split, files in RADIMAGENET.items():
        lines = ["filename,label", *[f"radiology_ai/{file},x" for file in files]]
        (root / f"RadiologyAI_{split}.csv").write_text("\n".join(lines) + "\n")
        for number, file in enumerate(files):
            if images:
                target = root / "radiology_ai" / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(picture_bytes(number + 10 * len(split)))
    return root
