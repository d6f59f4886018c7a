"""The command line: reads arguments, calls one plain function, turns what went wrong into a code.

Exit codes: 0 done; 2 the input cannot be used (the message says what, where and the fix);
1 a bug of ours; 143 and 130 stopped by SIGTERM or Ctrl-C after saving. Nothing here imports torch
before a command runs, so `--help` is instant.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from dynamask.config import Option, load_config, options, preset_names
from dynamask.config_values import did_you_mean, spelled
from dynamask.errors import InputError

SHORT = {"data": "data.source", "model": "model.name", "out": "train.out", "device": "train.device"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code."""
    try:
        parsed = _parse(list(sys.argv[1:] if arguments is None else arguments))
        parsed.run(parsed)
    except InputError as error:
        print(f"dynamask: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dynamask: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader of a pipe went away; keep Python from complaining again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        import dynamask

        if _is_about_data(error):
            print(f"dynamask: {error}", file=sys.stderr)
            return 2
        traceback.print_exc()
        print(
            f"dynamask: a bug of ours (dynamask {dynamask.__version__}). Please report the lines "
            "above with the command and `dynamask info`.",
            file=sys.stderr,
        )
        return 1
    return 0


def _is_about_data(error: Exception) -> bool:
    """Whether the data set is to blame; asked so that nothing is imported that has not been yet."""
    checks = sys.modules.get("dynamask.data.checks")
    return checks is not None and isinstance(error, checks.DataError)


class _Parser(argparse.ArgumentParser):
    """argparse that leaves all complaints to :class:`InputError`."""

    def __init__(self, **settings: Any):
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; `{self.prog} --help` shows what there is")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser, commands = _parsers()
    if not arguments:
        parser.print_help()
        parser.exit(2)
    if arguments[0] not in commands and not arguments[0].startswith("-"):
        hint = did_you_mean(arguments[0], list(commands)) or f"; there are {', '.join(commands)}"
        raise InputError(f"no command '{arguments[0]}'{hint}")
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        command = commands[parsed.command]
        flag = unknown[0].partition("=")[0]
        known = [name for action in command._actions for name in action.option_strings]
        hint = did_you_mean(flag, known) or f"; `{command.prog} --help` lists them"
        what = "option" if flag.startswith("-") else "further argument"
        raise InputError(f"no {what} '{flag}' in `{command.prog}`{hint}")
    return parsed


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
    import dynamask

    parser = _Parser(
        prog="dynamask",
        description="Instance segmentation where every object gets the mask resolution it needs.",
    )
    parser.add_argument("--version", action="version", version=f"dynamask {dynamask.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    made = {}
    for name, (about, fill) in _COMMANDS.items():
        made[name] = commands.add_parser(name, help=about, description=about)
        fill(made[name])
    return parser, made


def _demo(parser: _Parser) -> None:
    parser.add_argument("--out", default="demo-out", metavar="DIR", help="folder (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of data and training (%(default)s)")
    parser.add_argument(
        "--from-scratch", action="store_true", help="leave the weights of the package aside"
    )
    parser.add_argument("--epochs", type=int, help="epochs of phase two (what fits into minutes)")

    def run(args: argparse.Namespace) -> None:
        from dynamask.demo import demo

        demo(args.out, seed=args.seed, from_scratch=args.from_scratch, epochs=args.epochs)

    parser.set_defaults(run=run)


def _train(parser: _Parser) -> None:
    parser.add_argument("--preset", metavar="NAME", help=f"one of {', '.join(preset_names())}")
    parser.add_argument("--config", metavar="FILE", help="YAML; overrides the preset")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="go on with a run, or with the last one; other options override its config",
    )
    parser.add_argument("--print-config", action="store_true", help="print the config and stop")
    for short, name in SHORT.items():
        parser.add_argument(
            f"--{short}",
            dest=name,
            metavar="X",
            default=argparse.SUPPRESS,
            help=f"short for {name}",
        )
    _add_options(parser, list(options().values()))

    def run(args: argparse.Namespace) -> None:
        known = options()
        overrides = {name: value for name, value in vars(args).items() if name in known}
        if args.resume is not None and (args.config or args.preset):
            raise InputError(
                "--resume takes the config of its run; leave out --config and --preset"
            )
        if args.resume is not None:
            from dynamask.run_folder import RunFolder

            folder = RunFolder.open(args.resume or None, overrides.pop("train.out", "runs"))
            config = load_config(file=folder.path / "config.yaml", overrides=overrides)
        else:
            folder = None
            config = load_config(args.preset, args.config, overrides)
        if args.print_config:
            print(config.to_yaml(), end="")
            return
        from dynamask.train import train

        done = train(config, resume=folder)
        _print_summary(done.metrics)
        print(f"run: {done.path}")

    parser.set_defaults(run=run)


def _eval(parser: _Parser) -> None:
    _add_model(parser)
    parser.add_argument("--data", metavar="DIR", help="data set (that of the run)")
    parser.add_argument("--split", choices=["train", "val"], default="val", help="(%(default)s)")
    parser.add_argument(
        "--metrics", default="bbox,segm,boundary", metavar="A,B", help="(%(default)s)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the first N images only")
    parser.add_argument("--batch-size", type=int, default=4, metavar="N", help="(%(default)s)")
    parser.add_argument(
        "--out", metavar="DIR", help="also write metrics, predictions, tables there"
    )
    parser.add_argument("--json", action="store_true", help="print JSON to stdout")

    def run(args: argparse.Namespace) -> None:
        from dynamask.evaluate import evaluate_weights

        metrics = evaluate_weights(
            args.model,
            args.data,
            split=args.split,
            metrics=[name for name in args.metrics.split(",") if name],
            limit=args.limit,
            batch_size=args.batch_size,
            mask_size=args.mask_size,
            device=args.device,
            precision=args.precision,
            out=args.out,
        )
        if args.json:
            print(json.dumps(metrics, indent=2))
        else:
            _print_summary(metrics)

    parser.set_defaults(run=run)


def _predict(parser: _Parser) -> None:
    _add_model(parser)
    parser.add_argument("images", nargs="+", help="images, folders or globs")
    parser.add_argument("--out", default="predictions", metavar="DIR", help="(%(default)s)")
    parser.add_argument(
        "--format",
        default="coco,png",
        metavar="A,B",
        help="of coco (one predictions.json), png (overlays), masks (an .npz of dense masks per "
        "image), mask-png (one picture of instance numbers per image); (%(default)s)",
    )
    parser.add_argument("--score", type=float, default=0.5, help="threshold (%(default)s)")
    parser.add_argument(
        "--color-by",
        choices=["mask_size", "class", "instance"],
        default="mask_size",
        help="what a colour stands for in overlays (%(default)s)",
    )
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="(%(default)s)")

    def run(args: argparse.Namespace) -> None:
        from dynamask.predict import predict_files

        unreadable = predict_files(
            args.model,
            args.images,
            args.out,
            formats=[name for name in args.format.split(",") if name],
            score=args.score,
            color_by=args.color_by,
            batch_size=args.batch_size,
            mask_size=args.mask_size,
            device=args.device,
            precision=args.precision,
        )
        if unreadable:
            listed = "\n  ".join(unreadable)
            raise InputError(
                f"predict: {len(unreadable)} images could not be read and were skipped:\n  {listed}"
            )

    parser.set_defaults(run=run)


def _info(parser: _Parser) -> None:
    parser.add_argument("run_folder", nargs="?", metavar="RUN", help="a run folder or weights file")
    parser.add_argument("--flops", action="store_true", help="measure what each mask size costs")
    parser.add_argument("--model", default="dynamask_r50", help="for --flops (%(default)s)")
    parser.add_argument(
        "--classes", type=int, default=80, metavar="N", help="for --flops (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON to stdout")

    def run(args: argparse.Namespace) -> None:
        from dynamask.info import info, print_info

        facts = info(args.run_folder, flops=args.flops, model=args.model, num_classes=args.classes)
        if args.json:
            print(json.dumps(facts, indent=2))
        else:
            print_info(facts)

    parser.set_defaults(run=run)


def _bench(parser: _Parser) -> None:
    parser.add_argument("subject", choices=["ops", "model"], help="operators, or whole models")
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as nms; all if none")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="(%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=1.0, metavar="S", help="for each case (%(default)s)"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the rows there")

    def run(args: argparse.Namespace) -> None:
        from dynamask.bench import bench

        bench(
            args.subject,
            names=args.names,
            threads=args.threads,
            seconds=args.seconds,
            json=args.json,
        )

    parser.set_defaults(run=run)


_COMMANDS: dict[str, tuple[str, Callable[[_Parser], None]]] = {
    "demo": (
        "Data, training, evaluation, pictures and a report, with no network, in minutes.",
        _demo,
    ),
    "train": ("Train on a COCO folder or on built-in shapes.", _train),
    "eval": ("Measure AP of boxes, masks and boundaries, and what masks cost.", _eval),
    "predict": ("Find the objects in images.", _predict),
    "bench": (
        "Time operators or whole models against torchvision and others on this machine.",
        _bench,
    ),
    "info": ("Versions, kernels, and what a run or weights file holds.", _info),
}


def _add_model(parser: _Parser) -> None:
    parser.add_argument(
        "model", metavar="RUN", help="run folder, .safetensors file, or tiny-shapes"
    )
    parser.add_argument(
        "--mask-size",
        type=int,
        metavar="S",
        help="give every instance this size: 14, 28, 56 or 112",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (%(default)s)")
    parser.add_argument(
        "--precision",
        choices=["fp32", "bf16"],
        default="fp32",
        help="of weights and feature maps (%(default)s)",
    )


def _add_options(parser: _Parser, found: Sequence[Option]) -> None:
    groups: dict[str, Any] = {}
    for option in found:
        section = option.name.partition(".")[0]
        if section not in groups:
            groups[section] = parser.add_argument_group(section)
        default = "empty" if option.default is None else option.default
        about = f"{option.help} ({spelled(option.type)}; {default})".replace("%", "%%")
        groups[section].add_argument(
            f"--{option.name}", dest=option.name, metavar="X", default=argparse.SUPPRESS, help=about
        )


def _print_summary(metrics: dict[str, Any]) -> None:
    """Headline numbers for a person."""
    rows = {
        name: " ".join(_percent(metrics.get(f"{name}/{part}")) for part in ("AP", "AP50", "AP75"))
        for name in ("bbox", "segm", "boundary")
        if f"{name}/AP" in metrics
    }
    if rows:
        print(f"{'':14}{'AP':>6} {'AP50':>6} {'AP75':>6}")
    for name, numbers in rows.items():
        print(f"{name:14}{numbers}")
    if metrics.get("mask_gflops") is not None:
        print(f"{'mask GFLOPs':14}{metrics['mask_gflops']:6.3g} per instance")
        sizes = "  ".join(f"{size}: {n}" for size, n in metrics["mask_size_hist"].items())
        print(f"{'mask sizes':14}{sizes}")


def _percent(value: float | None) -> str:
    return f"{'-':>6}" if value is None else f"{100 * value:6.1f}"


if __name__ == "__main__":
    sys.exit(main())
