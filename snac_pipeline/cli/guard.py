"""The command gpu-guard."""

import argparse
from pathlib import Path

from snac_pipeline.cli.arguments import Add, OnEvent, Result, positive
from snac_pipeline.settings import Settings


def add_gpu_guard(add: Add) -> None:
    watch = add(
        "gpu-guard",
        _gpu_guard,
        "who else is on this machine's GPUs: list them, watch, notify, and, only when told so, end them (extra `gpu`)",
        "  snac-pipeline gpu-guard list\n"
        "  snac-pipeline gpu-guard watch --gpu 0 --gpu 1 --allow ann --action end   # a dry run: says what it would\n"
        "  snac-pipeline gpu-guard watch --gpu 0 --allow ann --action end --apply   # does it\n"
        "  snac-pipeline gpu-guard install --gpu 0 --allow ann --action notify --apply # as a systemd service\n"
        "  snac-pipeline gpu-guard start | stop | status | logs",
    )
    watch.add_argument("verb", choices=["list", "watch", "install", "start", "stop", "status", "logs"], metavar="VERB",
                       help="list, watch, install, start, stop, status or logs")  # fmt: skip
    watch.add_argument("--gpu", action="append", type=int, default=[], metavar="N", help="this GPU; none given: all")
    watch.add_argument(
        "--allow", action="append", default=[], metavar="USER", help="who may be there, besides yourself"
    )
    watch.add_argument(
        "--action",
        choices=["warn", "notify", "end"],
        default="warn",
        help="what becomes of others' processes: a line; a line and a post to $SNAC_PIPELINE_WEBHOOK; or SIGTERM, the "
        "grace period and SIGKILL. Never yours, never root's. Default: warn",
    )
    watch.add_argument("--apply", action="store_true", help="do it; without this it is a dry run")
    watch.add_argument("--grace", type=float, default=30.0, metavar="S", help="seconds before SIGKILL (30)")
    watch.add_argument("--every", type=float, default=10.0, metavar="S", help="seconds between two looks (10)")
    watch.add_argument("--unit-dir", type=Path, metavar="DIR", help="install: write the unit there")
    watch.add_argument("--lines", type=positive, default=50, metavar="N", help="logs: how many (50)")
    watch.set_defaults(needs_settings=False)


def _gpu_guard(options: argparse.Namespace, settings: Settings | None, on_event: OnEvent) -> Result:
    from snac_pipeline import guard

    rules = guard.Rules(options.gpu, frozenset(options.allow), options.action, not options.apply, options.grace)
    match options.verb:
        case "list":
            with guard.open_nvml() as nvml:
                seen = [(sighting, guard.judge(sighting, rules)) for sighting in guard.look(nvml, rules.gpus)]
            for sighting, verdict in seen:
                on_event({"message": f"{verdict:<9} {sighting}", **vars(sighting), "verdict": verdict})
            return {"processes": len(seen), "strangers": sum(verdict == "stranger" for _, verdict in seen)}
        case "watch":
            with guard.open_nvml() as nvml:
                for sighting, done in guard.watch(nvml, rules, options.every):
                    on_event({"message": f"{sighting}: {done}", **vars(sighting), "done": done})
            raise AssertionError("a watch ends by being interrupted")
        case "install":
            return {"unit": str(guard.install(guard.watch_arguments(rules, options.every), options.unit_dir))}
        case "logs":
            return {"logs": guard.logs(options.lines)}
        case verb:
            return {"systemctl": guard.service_command(verb)}
