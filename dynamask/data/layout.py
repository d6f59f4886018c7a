"""Where a data set keeps its annotations and images."""

from pathlib import Path

from dynamask.data.checks import DataError

_YEARS = ("2017", "2014", "")


def find_layout(folder: Path, split: str) -> tuple[Path, list[Path]]:
    """Finds the annotation file of a split and the folders in which its images may be.

    Known layouts, the first that is there counts (YEAR is 2017, 2014 or nothing)::

        annotations/instances_{split}YEAR.json  with {split}YEAR/, images/{split}YEAR/ or images/
        annotations/{split}.json                with images/{split}/, images/ or {split}/
        {split}/_annotations.coco.json          with {split}/    (Roboflow; "valid" stands for val)

    Raises:
        DataError: if the folder does not exist or has none of the layouts.
    """
    if not folder.is_dir():
        raise DataError(f"data: there is no folder {folder}")
    names = (split, "valid") if split == "val" else (split,)
    candidates: list[tuple[Path, list[Path]]] = []
    for year in _YEARS:
        stem = f"{split}{year}"
        places = [folder / stem, folder / "images" / stem, folder / "images"]
        candidates.append((folder / "annotations" / f"instances_{stem}.json", places))
    for name in names:
        places = [folder / "images" / name, folder / "images", folder / name]
        candidates.append((folder / "annotations" / f"{name}.json", places))
        candidates.append((folder / name / "_annotations.coco.json", [folder / name]))
    for annotations, places in candidates:
        if annotations.is_file():
            return annotations, [*(place for place in places if place.is_dir()), folder]
    looked = "\n".join(
        f"  looked for {annotations.relative_to(folder)}" for annotations, _ in candidates
    )
    raise DataError(
        f"data: {folder} has no annotations of the split {split!r} in a known layout\n{looked}\n"
        "  fix: move the files so, or name the JSON file and the image folder"
    )


def images_folder(places: list[Path], first_file: object) -> Path:
    """The first of the folders that holds the first image, or else simply the first."""
    if isinstance(first_file, str) and "\0" not in first_file:
        for place in places:
            if (place / first_file).is_file():
                return place
    return places[0]
