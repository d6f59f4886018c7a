"""Where a run leaves everything, readable without this library.

runs/2026-11-20-shapes-mini-dynamask_tiny-01/
  config.yaml  env.json  data.json       resolved config; versions, machine; classes, fingerprint
  train.csv  val.csv  log.txt
  weights/best.safetensors  weights/last.safetensors
  state/last.pt  state/previous.pt       optimizer, schedule, random states: for --resume
  eval/  plots/  images/  report.html
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamask.config import Config, load_config
from dynamask.errors import InputError
from dynamask.files import remove_leftovers, write_atomic

if TYPE_CHECKING:
    from dynamask.data import CocoDataset


class RunFolder:
    """A folder of one run. Files in it are replaced whole, never half."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._columns: dict[str, list[str]] = {}

    @staticmethod
    def create(config: Config) -> RunFolder:
        """A new folder under ``config.train.out``, numbered so that none is ever overwritten."""
        data = Path(config.data.source).name or Path(config.data.source).resolve().name
        name = config.train.name or f"{data}-{config.model.name}"
        stem = f"{datetime.date.today().isoformat()}-{name}"
        for number in range(1, 1000):
            path = Path(config.train.out) / f"{stem}-{number:02d}"
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise InputError(f"train.out: cannot make {path}: {error.strerror}") from error
            run = RunFolder(path)
            write_atomic(path / "config.yaml", config.to_yaml())
            run.write_json("env.json", environment())
            return run
        raise InputError(
            f"train.out: {config.train.out} has 999 runs named {stem}; give train.name"
        )

    @staticmethod
    def open(path: str | Path | None, out: str | Path = "runs") -> RunFolder:
        """The run at ``path``, or the one last saved under ``out``.

        Raises:
            InputError: if there is none.
        """
        if path is None:
            runs = [file.parent for file in Path(out).glob("*/config.yaml")]
            runs = [run for run in runs if (run / "state").is_dir()]
            if not runs:
                raise InputError(f"resume: no run with a saved state in {Path(out).resolve()}")
            path = max(runs, key=lambda run: (run / "state").stat().st_mtime_ns)
        run = RunFolder(path)
        if not (run.path / "config.yaml").is_file():
            raise InputError(f"resume: {run.path} is no run folder: it has no config.yaml")
        remove_leftovers(run.path)
        remove_leftovers(run.path / "state")
        remove_leftovers(run.path / "weights")
        return run

    def config(self) -> Config:
        return load_config(file=self.path / "config.yaml")

    @property
    def state(self) -> Path:
        return self.path / "state"

    def weights(self, which: str) -> Path:
        return self.path / "weights" / f"{which}.safetensors"

    def write_json(self, name: str, content: Any) -> None:
        write_atomic(self.path / name, json.dumps(content, indent=2) + "\n")

    def read_json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text())

    def append_row(self, name: str, row: dict[str, Any]) -> None:
        """Adds a line to a CSV file; a key that is new there becomes a column."""
        path = self.path / name
        if name not in self._columns:
            self._columns[name] = list(self.read_rows(name)[0]) if path.is_file() else []
        columns = self._columns[name]
        if not set(row) <= set(columns):
            rows = [*self.read_rows(name), row]
            write_atomic(path, to_csv(rows))
            self._columns[name] = list(dict.fromkeys(key for r in rows for key in r))
            return
        with path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, columns, restval="", lineterminator="\n").writerow(row)

    def keep_rows(self, name: str, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Drops the lines of a CSV file that are not to be kept."""
        rows = self.read_rows(name)
        self._columns.pop(name, None)
        if any(not keep(row) for row in rows):
            write_atomic(self.path / name, to_csv(row for row in rows if keep(row)))

    def read_rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a CSV file, numbers as numbers; none if there is no file."""
        path = self.path / name
        if not path.is_file():
            return []
        with path.open(newline="") as file:
            rows = [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(file)]
        # a kill may have cut the last line
        return [row for row in rows if None not in row and row.get("step", 0) is not None]

    def log(self, line: str) -> None:
        stamp = datetime.datetime.now().strftime("%H:%M:%S")
        with (self.path / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{stamp} {line}\n")


def to_csv(rows: Iterable[dict[str, Any]]) -> str:
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def environment() -> dict[str, Any]:
    """Versions and machine: what a number depends on besides the config."""
    import torch

    import dynamask

    versions: dict[str, str | None] = {
        "python": platform.python_version(),
        "dynamask": dynamask.__version__,
    }
    for package in ("torch", "torchvision", "numpy", "safetensors", "faster-coco-eval", "triton"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "versions": versions,
        "commit": commit(),
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "command": sys.argv,
    }


def commit() -> str | None:
    """The git commit of this library's source, with "+" if it was changed since."""
    here = Path(__file__).resolve().parent
    try:
        # a package installed inside another project's repository has no commit of its own
        if Path(_git(here, "rev-parse", "--show-toplevel")) != here.parent:
            return None
        head = _git(here, "rev-parse", "--short", "HEAD")
        return head + ("+" if _git(here, "status", "--porcelain", "--", str(here)) else "")
    except (OSError, subprocess.SubprocessError):
        return None


def fingerprint(dataset: CocoDataset) -> dict[str, Any]:
    """What tells one data set from another: counts, classes, a hash of the annotation file."""
    return {
        "annotation_file": str(dataset.annotations),
        "images": len(dataset),
        "annotations": len(dataset.ground_truth["annotations"]),
        "classes": dataset.classes,
        "category_ids": dataset.category_ids,
        "sha256": dataset.fingerprint,
    }


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=5,
    )
    return done.stdout.strip()


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _number(text: str) -> Any:
    if text == "":
        return None
    try:
        return float(text) if "." in text or "e" in text or "n" in text.lower() else int(text)
    except ValueError:
        return text
