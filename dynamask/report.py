"""One HTML file with everything in it: pictures as data, charts as SVG, readable offline."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from dynamask.charts import Series, bar_chart, line_chart, smoothed
from dynamask.files import write_atomic
from dynamask.run_folder import RunFolder

# the colours masks are drawn with, by size; a little darker where they are text or lines
SIZE_COLORS = {14: "#56b4e9", 28: "#009e73", 56: "#e5c100", 112: "#d55e00"}
INK, ACCENT, QUIET = "var(--ink)", "var(--accent)", "var(--quiet)"

STYLE = """
:root{--paper:#fcfcfa;--card:#fff;--ink:#1d2126;--quiet:#6a727c;--rule:#e4e5e1;--accent:#7a3ff2;
color-scheme:light dark}
@media(prefers-color-scheme:dark){:root{--paper:#14161a;--card:#1c1f25;--ink:#e9eaec;
--quiet:#969ea8;--rule:#2d3139;--accent:#b698ff}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.6 ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
main{max-width:1080px;margin:0 auto;padding:56px 24px 80px}
h1{font-size:40px;line-height:1.1;letter-spacing:-.025em;margin:0 0 12px}
h2{font-size:22px;letter-spacing:-.01em;margin:64px 0 6px}
h3{font-size:15px;margin:0 0 8px}
p{margin:0 0 14px;max-width:68ch}.lead{font-size:19px;color:var(--quiet)}
.quiet,figcaption,.legend{color:var(--quiet);font-size:14px}
.numbers{display:grid;grid-template-columns:repeat(auto-fit,minmax(165px,1fr));gap:1px;
background:var(--rule);border:1px solid var(--rule);border-radius:12px;overflow:hidden;
margin:32px 0 8px}
.numbers div{background:var(--card);padding:18px 20px}
.numbers b{display:block;font-size:32px;line-height:1.15;letter-spacing:-.02em;font-weight:650;
font-variant-numeric:tabular-nums}
.numbers span{color:var(--quiet);font-size:14px}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:24px;
margin:20px 0}
.card{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:18px 20px}
.card:only-child{max-width:528px}
figure{margin:0}figure img{width:100%;display:block;border-radius:8px}
figcaption{margin-top:6px}
svg{width:100%;height:auto;display:block;font-size:12px;fill:var(--quiet)}
svg .grid{stroke:var(--rule)}svg .mark{stroke:var(--quiet);stroke-dasharray:2 3}
svg .line{fill:none;stroke-width:2.25;stroke-linejoin:round;stroke-linecap:round}
svg circle{stroke:var(--card);stroke-width:1.5}
svg .mid{text-anchor:middle}svg .end{text-anchor:end}
svg .strong{fill:var(--ink);font-weight:600}svg .name{fill:var(--quiet)}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:8px 0 0}
.legend i{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:7px;
vertical-align:-1px}.legend i.dashed{opacity:.55}
.table{overflow-x:auto;margin:20px 0}
table{border-collapse:collapse;width:100%;font-size:15px;font-variant-numeric:tabular-nums}
th,td{padding:8px 14px;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
th:first-child,td:first-child{text-align:left}
th{color:var(--quiet);font-weight:500;font-size:13px}
tr.best td{font-weight:650}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 20px;font-size:14px}
dt{color:var(--quiet)}dd{margin:0;overflow-wrap:anywhere}
code{font:13px ui-monospace,SFMono-Regular,Menlo,monospace}
"""


def page(title: str, lead: str, body: Sequence[str]) -> str:
    """A whole document."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f'<h1>{escape(title)}</h1><p class="lead">{lead}</p>{"".join(body)}</main></body></html>\n'
    )


def numbers(items: Sequence[tuple[str, str]]) -> str:
    """Headline numbers, each with what it is."""
    return (
        '<div class="numbers">'
        + "".join(f"<div><b>{escape(n)}</b><span>{escape(what)}</span></div>" for n, what in items)
        + "</div>"
    )


def section(title: str, text: str, *content: str) -> str:
    return f"<h2>{escape(title)}</h2><p>{text}</p>{''.join(content)}"


def cards(*entries: tuple[str, str]) -> str:
    """Charts side by side, each with a heading."""
    inside = "".join(
        f'<div class="card"><h3>{escape(heading)}</h3>{content}</div>'
        for heading, content in entries
    )
    return f'<div class="two">{inside}</div>'


def pictures(files: Sequence[tuple[Path, str]]) -> str:
    """Pictures with captions, inside the page."""
    shown = []
    for path, caption in files:
        kind = "png" if path.suffix == ".png" else "jpeg"
        data = base64.b64encode(path.read_bytes()).decode()
        shown.append(
            f'<figure><img src="data:image/{kind};base64,{data}" alt="{escape(caption)}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    return f'<div class="two">{"".join(shown)}</div>'


def table(rows: Sequence[dict[str, Any]], emphasised: int | None = None) -> str:
    """Rows with the keys of the first as columns; AP and shares are given in percent already."""
    if not rows:
        return ""
    head = "".join(f"<th>{escape(str(key))}</th>" for key in rows[0])
    lines = []
    for k, row in enumerate(rows):
        cells = "".join(f"<td>{escape(_cell(value))}</td>" for value in row.values())
        lines.append(f"<tr{' class=best' if k == emphasised else ''}>{cells}</tr>")
    return f'<div class="table"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def facts(items: dict[str, Any]) -> str:
    inside = "".join(
        f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>" for key, value in items.items()
    )
    return f"<dl>{inside}</dl>"


def percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 1)


def size_chart(histogram: dict[Any, int]) -> str:
    """How many instances got each mask size."""
    counts = {int(size): n for size, n in histogram.items()}
    sizes = sorted(set(counts) | set(SIZE_COLORS))
    stacks = [
        ("", SIZE_COLORS.get(size, ACCENT), [counts.get(s, 0) if s == size else 0 for s in sizes])
        for size in sizes
    ]
    return bar_chart([str(s) for s in sizes], stacks, "mask size", "instances", show_values=True)


def loss_charts(rows: Sequence[dict[str, Any]]) -> str:
    """Loss curves of a training, with the start of phase two marked."""
    fixed = {"step", "epoch", "phase", "lr", "loss", "grad_norm", "seconds"}
    names = [key for row in (rows[0], rows[-1]) for key in row if key not in fixed]
    names = list(dict.fromkeys(names))
    switch = [name for name in names if "budget" in name or "entropy" in name]
    masks = [name for name in names if name not in switch and ("mask" in name or "edge" in name)]
    rest = [name for name in names if name not in switch + masks]
    starts = [row["step"] for row in rows if row["phase"] == 2][:1]
    marks = [(starts[0], "phase 2")] if starts and starts[0] > 1 else []
    window = max(1, len(rows) // 120)
    colors = ["#56b4e9", "#d55e00", "#009e73", "#cc79a7", "#e5c100", "#0072b2"]

    def chart(wanted: Sequence[str], from_zero: bool = True) -> str:
        series = [
            Series(
                name,
                smoothed([(r["step"], r[name]) for r in rows if _is_number(r.get(name))], window),
                colors[k % len(colors)],
                markers=False,
            )
            for k, name in enumerate(wanted)
        ]
        return line_chart(series, "step", "loss", y_from_zero=from_zero, marks=marks)

    shown = [("Total", ["loss"]), ("Boxes and classes", rest), ("Masks and edges", masks)]
    entries = [(heading, chart(wanted)) for heading, wanted in shown if wanted]
    if switch:
        entries.append(("The switch: budget and entropy", chart(switch, from_zero=False)))
    return cards(*entries)


def machine(environment: dict[str, Any]) -> dict[str, Any]:
    """What the numbers were measured with."""
    versions = environment["versions"]
    return {
        "machine": f"{environment['cpu']}, {environment['threads']} threads",
        "GPU": ", ".join(environment["gpus"]) or "none",
        "system": environment["system"],
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "commit": environment["commit"] or "unknown",
        "command": " ".join(environment["command"]),
    }


def write_run_report(folder: RunFolder) -> Path:
    """report.html of a training, from what lies in its run folder."""
    metrics = folder.read_json("eval/metrics.json")
    data = folder.read_json("data.json")
    config = folder.config()
    rows = folder.read_rows("train.csv")
    images = sorted((folder.path / "images").glob("*.jpg"))
    shown = [
        (name, metrics.get(f"{name}/AP"), metrics.get(f"{name}/AP50"), metrics.get(f"{name}/AP75"))
        for name in ("bbox", "segm", "boundary")
        if f"{name}/AP" in metrics
    ]
    headline = [(_cell(percent(ap)), f"{name} AP") for name, ap, _, _ in shown]
    if metrics["mask_gflops"] is not None:
        headline.append((f"{metrics['mask_gflops']:.3g}", "mask GFLOPs per instance"))
    body = [
        numbers(headline),
        section(
            "Evaluation",
            f"{metrics['images']} images of <code>{escape(config.data.source)}</code>, split "
            f"{config.eval.split}, {metrics['instances']} detections.",
            table(
                [
                    {"": name, "AP": percent(a), "AP50": percent(b), "AP75": percent(c)}
                    for name, a, b, c in shown
                ]
            ),
        ),
    ]
    if images:
        names = [(path, path.stem) for path in images]
        body.append(section("Pictures", "Left the image, right what was found.", pictures(names)))
    if metrics["mask_size_hist"]:
        chart = ("Instances by mask size", size_chart(metrics["mask_size_hist"]))
        body.append(section("Chosen mask sizes", "", cards(chart)))
    if rows:
        body.append(section("Training", f"{rows[-1]['step']} steps.", loss_charts(rows)))
    body.append(section("Made with", "", facts(machine(folder.read_json("env.json")))))
    lead = (
        f"{config.model.name}, {data['images']} training images, {len(data['classes'])} classes: "
        + escape(", ".join(data["classes"][:12]))
    )
    path = folder.path / "report.html"
    write_atomic(path, page(folder.path.name, lead, body))
    return path


def _cell(value: Any) -> str:
    if value is None:
        return "\u2013"
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 10 or value == 0 else f"{value:.3g}"
    return str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and value == value
