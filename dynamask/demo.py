"""Everything once, without a network: data, training, evaluation, pictures, a report."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamask import rle
from dynamask.charts import Series, bar_chart, line_chart
from dynamask.checkpoint import BUNDLED, choose_mask_size, read_weights
from dynamask.config import Config, load_config
from dynamask.data import make_shapes, open_dataset
from dynamask.evaluate import Evaluation, evaluate, headline
from dynamask.evaluation.oracle import Oracle, oracle, oracle_curve
from dynamask.files import write_atomic
from dynamask.models.dynamic_mask_head import DynamicMaskHead
from dynamask.plots import alone
from dynamask.progress import Progress, say
from dynamask.report import (
    INK,
    SIZE_COLORS,
    cards,
    facts,
    loss_charts,
    machine,
    numbers,
    page,
    percent,
    pictures,
    section,
    size_chart,
    table,
)
from dynamask.run_folder import RunFolder
from dynamask.train import Run, train

if TYPE_CHECKING:
    from dynamask.data import CocoDataset

WEIGHTS = "tiny-shapes"
DETAIL_BINS = 5
TOLERANCE = 0.03  # of IoU: the size an object needs is the smallest this near to the best


def demo(
    out: str | Path, *, seed: int = 0, from_scratch: bool = False, epochs: int | None = None
) -> Path:
    """Trains dynamask_tiny on generated shapes, compares it with fixed sizes, writes a report.

    Args:
        out: Folder for the data and the runs; a second demo there gets a run folder of its own.
        seed: Of the data and of the training.
        from_scratch: Leave the weights that come with the package aside.
        epochs: Epochs of phase two; by default what fits into a few minutes on two cores.

    Returns:
        The report.
    """
    start = time.monotonic()
    out = Path(out)
    data = out / "shapes-mini" if seed == 0 else out / f"shapes-mini-{seed}"
    with Progress("data", 160) as progress:
        make_shapes("shapes-mini", data, seed=seed, progress=lambda done, _: progress.update(done))
    bundled = (BUNDLED / f"{WEIGHTS}.safetensors").is_file() and not from_scratch
    config = demo_config(data, out, seed, bundled, epochs)
    run = train(config)
    val = open_dataset(data, "val")
    compared = compare_sizes(run, val)
    best_possible = oracle(val, mask_branch(run).sizes)
    report = write_demo_report(run, val, compared, best_possible, bundled, start)
    say("")
    print(f"dynamic      {headline(compared[0].summary())}")
    for size in sorted(size for size in compared if size):
        print(f"fixed {size:<6} {headline(compared[size].summary())}")
    print(f"held out     segm AP50 {100 * (compared[0]['segm/AP50'] or 0):.1f}")
    print(f"took         {time.monotonic() - start:.0f} s")
    print(f"report       {report.resolve()}")
    return report


def demo_config(
    data: Path, out: Path, seed: int, bundled: bool, epochs: int | None = None
) -> Config:
    """Both phases, in the few minutes a demo has."""
    config = load_config("shapes-tiny")
    # the weights of the package fit the network they were trained in
    model = read_weights(WEIGHTS)[1].config.model if bundled else config.model
    return replace(
        config,
        model=replace(model, weights=WEIGHTS if bundled else None),
        data=replace(config.data, source=str(data)),
        optim=replace(config.optim, lr=2e-4 if bundled else config.optim.lr),
        train=replace(
            config.train,
            phase1_epochs=1 if bundled else 2,
            epochs=epochs or (2 if bundled else 6),
            seed=seed,
            out=str(out),
            name="demo",
        ),
    )


def mask_branch(run: Run) -> DynamicMaskHead:
    assert isinstance(run.model.mask_branch, DynamicMaskHead)
    return run.model.mask_branch


def compare_sizes(run: Run, dataset: CocoDataset) -> dict[int, Evaluation]:
    """The same weights with the switch (0) and with each fixed mask size."""
    config, found = run.meta.config, {}
    for size in (0, *mask_branch(run).sizes):
        choose_mask_size(run.model, size or None)
        found[size] = evaluate(
            run.model,
            dataset,
            short_side=config.data.eval_short_side,
            max_side=config.data.max_side,
            what=f"fixed {size}" if size else "dynamic",
        )
    choose_mask_size(run.model, None)
    return found


def write_demo_report(
    run: Run,
    dataset: CocoDataset,
    compared: dict[int, Evaluation],
    best_possible: Oracle,
    bundled: bool,
    start: float,
) -> Path:
    """report.html in the run folder."""
    folder = RunFolder(run.path)
    dynamic, largest = compared[0], compared[max(compared)]
    costs = mask_branch(run).costs
    # the largest mask is what everything would cost without a switch
    saved = 1 - (dynamic.mask_gflops or 0) / costs[-1]
    used = [size for size, n in dynamic.mask_size_hist.items() if n]
    rows = folder.read_rows("train.csv")
    curve = oracle_curve(dataset, best_possible, costs)
    sizes = best_possible.sizes
    needed = [sizes[k] for k in best_possible.needed(TOLERANCE).tolist()]
    ap_chart = _ap_chart(compared, curve, "segm/AP")
    write_atomic(folder.path / "plots" / "ap_vs_gflops.svg", alone(ap_chart))
    body = [
        numbers(
            [
                (f"{percent(dynamic['segm/AP50'])}", "segm AP50, held-out images"),
                (f"{percent(dynamic['segm/AP'])}", "segm AP"),
                (f"{percent(dynamic['boundary/AP'])}", "boundary AP"),
                (f"{saved:.0%}", f"mask compute saved against {max(compared)} everywhere"),
                (f"{len(used)}", f"mask sizes in use: {', '.join(map(str, used))}"),
            ]
        ),
        section(
            "What it found",
            "Held-out images. Left the image, right the masks, coloured by the size the switch "
            "chose for each object.",
            pictures([(p, p.stem) for p in sorted((run.path / "images").glob("*.jpg"))]),
        ),
        section(
            "Quality against compute",
            "The same weights with every object at one fixed mask size, and with the switch. The "
            "dashed line is a perfect head on the true boxes: what AP the grids themselves allow "
            "when each object gets the smallest that serves.",
            cards(
                ("Mask AP", ap_chart),
                ("Boundary AP", _ap_chart(compared, curve, "boundary/AP")),
            ),
            table(_comparison(compared), emphasised=0),
        ),
        section(
            "Which size for which object",
            "Every shape has a detail knob of its own, drawn independently of its class, size and "
            f"colour. An object needs the smallest grid whose best mask is within {TOLERANCE} of "
            "IoU of the best of all.",
            cards(
                ("Chosen", size_chart(dynamic.mask_size_hist)),
                ("Needed", size_chart({size: needed.count(size) for size in sizes})),
                ("Chosen, by detail", _detail_chart(chosen_by_detail(dataset, dynamic), sizes)),
                ("Needed, by detail", _detail_chart(_needed_by_detail(best_possible), sizes)),
            ),
        ),
        section(
            "Training",
            f"{rows[-1]['step']} steps in {rows[-1]['seconds']:.0f} s"
            + (f", from the weights <code>{WEIGHTS}</code> of the package" if bundled else "")
            + ". Phase 1 trains every mask size without the switch, phase 2 everything.",
            loss_charts(rows),
        ),
        section("Classes", "", table(_classes(dynamic))),
        section(
            "Made with",
            "",
            facts(
                machine(folder.read_json("env.json"))
                | {
                    "data": f"{escape(str(run.meta.config.data.source))}, {len(dataset)} held-out "
                    f"images, {len(best_possible.annotations)} objects",
                    "time": f"{time.monotonic() - start:.0f} s in all, evaluation "
                    f"{1000 * dynamic.seconds / dynamic.images:.0f} ms an image "
                    f"(fixed {max(compared)}: {1000 * largest.seconds / largest.images:.0f})",
                    "GFLOPs": "multiply-accumulates executed by the mask branch, in units of 1e9, "
                    "divided by instances",
                }
            ),
        ),
    ]
    path = run.path / "report.html"
    lead = (
        "A small DynaMask, trained and measured on this machine: every object gets the mask "
        "resolution it needs."
    )
    write_atomic(path, page("dynamask demo", lead, body))
    return path


def chosen_by_detail(dataset: CocoDataset, found: Evaluation) -> list[tuple[float, int]]:
    """(detail knob, chosen mask size) of every object that was found with a mask IoU above 0.5."""
    by_image = defaultdict(list)
    for result in found.predictions:
        by_image[result["image_id"]].append(result)
    pairs = []
    for annotation in dataset.ground_truth["annotations"]:
        wanted = annotation["category_id"]
        same = [r for r in by_image[annotation["image_id"]] if r["category_id"] == wanted]
        if annotation["iscrowd"] or not same:
            continue
        overlap = rle.iou([_packed(r["segmentation"]) for r in same], [_truth(annotation)])[:, 0]
        best = int(overlap.argmax())
        if overlap[best] > 0.5:
            pairs.append((annotation["detail"], same[best]["mask_size"]))
    return pairs


def _needed_by_detail(best_possible: Oracle) -> list[tuple[float, int]]:
    columns = best_possible.needed(TOLERANCE).tolist()
    details = [annotation["detail"] for annotation in best_possible.annotations]
    return [(detail, best_possible.sizes[k]) for detail, k in zip(details, columns)]


def _detail_chart(pairs: list[tuple[float, int]], sizes: Any) -> str:
    """Shares of sizes among objects of little to much detail."""
    bins: list[list[int]] = [[] for _ in range(DETAIL_BINS)]
    for detail, size in pairs:
        bins[min(int(detail * DETAIL_BINS), DETAIL_BINS - 1)].append(size)
    names = [f"{k / DETAIL_BINS:.1f}\u2013{(k + 1) / DETAIL_BINS:.1f}" for k in range(DETAIL_BINS)]
    stacks = [
        (
            str(size),
            SIZE_COLORS[size],
            [100 * one.count(size) / max(len(one), 1) for one in bins],
        )
        for size in sizes
    ]
    return bar_chart(names, stacks, "detail", "share of objects, %")


def _ap_chart(compared: dict[int, Evaluation], curve: list[dict[str, float]], name: str) -> str:
    fixed = [size for size in compared if size]
    points = [(compared[s].mask_gflops or 0.0, 100 * (compared[s][name] or 0.0)) for s in fixed]
    dynamic = (compared[0].mask_gflops or 0.0, 100 * (compared[0][name] or 0.0))
    limit = [(point["mask_gflops"], 100 * point[name]) for point in curve]
    return line_chart(
        [
            Series("perfect head", limit, "var(--quiet)", markers=False, dashed=True),
            Series("fixed size", points, INK, labels=[str(size) for size in fixed]),
            Series("dynamic", [dynamic], "var(--accent)", labels=["dynamic"], labels_below=True),
        ],
        "mask GFLOPs per instance",
        f"{name.split('/')[0]} AP",
    )


def _comparison(compared: dict[int, Evaluation]) -> list[dict[str, Any]]:
    return [
        {
            "mask size": str(size) if size else "dynamic",
            "box AP": percent(found["bbox/AP"]),
            "mask AP": percent(found["segm/AP"]),
            "AP50": percent(found["segm/AP50"]),
            "AP75": percent(found["segm/AP75"]),
            "boundary AP": percent(found["boundary/AP"]),
            "GFLOPs": found.mask_gflops,
            "ms / image": round(1000 * found.seconds / found.images, 1),
            "detections": len(found.predictions),
        }
        for size, found in compared.items()
    ]


def _classes(found: Evaluation) -> list[dict[str, Any]]:
    return [
        {
            "class": row["class"],
            "objects": row["objects"],
            "box AP": percent(row["bbox/AP"]),
            "mask AP": percent(row["segm/AP"]),
            "boundary AP": percent(row["boundary/AP"]),
        }
        for row in found.coco.per_class
    ]


def _packed(segmentation: dict[str, Any]) -> dict[str, Any]:
    return {**segmentation, "counts": segmentation["counts"].encode()}


def _truth(annotation: dict[str, Any]) -> dict[str, Any]:
    return _packed(annotation["segmentation"])
