"""The whole fault suite but for fuzzing, with its counts: kills of every stage, faults that are injected, runs as they
are used, and kinds of hostile input.

    python tests/faults/suite.py                  the full suite; counts go to docs/results/faults.json
    python tests/faults/suite.py --part servers   a part of it; the other parts' counts in that file stay
    python tests/faults/suite.py --quick --out F  a few of each"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import kills  # noqa: E402  (first: it keeps torch to one thread)
import using  # noqa: E402

FULL = dict(kills=40, injected=3, flips=60, writers=20, leave_out=(), around=1, limits=2, imports=10, extended=8,
            beside=2, spellings=None, foreign=40, unaddable=(), loads=4, bred=2, hostile=1.0)  # fmt: skip
QUICK = dict(kills=1, injected=1, flips=6, writers=1, leave_out=("align-brain",), around=1, limits=1, imports=1,
             extended=1, beside=1, spellings=("$PWD/run", "text copied"), foreign=2, unaddable=("more_generations",),
             loads=1, bred=1, hostile=0.03)  # fmt: skip


def of_full(share: float) -> dict:
    "The full numbers, fewer of each."
    whole = ("leave_out", "unaddable", "spellings", "hostile")
    less = {k: v if k in whole else max(1, round(share * v)) for k, v in FULL.items()}
    return less | dict(hostile=share, spellings=sorted(using.SPELLINGS)[:: round(1 / share)])


def say(text):
    print(text, flush=True)


def killed(sizes: dict, seed: int, names, other_process: bool) -> dict:
    "Kills of every stage, and what is injected into them."
    import injected

    def on_stage(ready, place, seed, say):
        n = sizes["injected"] if sizes is not QUICK or ready.stage.name == "evolve" else 0
        return injected.on_stage(ready, place, seed, n, sizes["flips"], say)
    found = kills.suite(names, seed, sizes["kills"], None, other_process, say, on_stage)
    by_fault = {}
    for stage in found["injected"].values():
        for name, f in stage.items():
            added(by_fault.setdefault(name, f | dict(tried=0, failures=[])), f)
    return found | dict(injected=by_fault)


def surroundings_fail(sizes, seed, place):
    "One call fails at a random moment of each stage, or a file may be no larger than this."
    import stages
    import surroundings

    found = dict(largest_file=dict(tried=0, failures=[]))
    for name in ("evolve", "develop", "population", "align-brain", "align-reading") if sizes is not QUICK else (
            "evolve", "population"):
        (place / name).mkdir()
        ready = kills.prepared(stages.STAGES[name], place / name, False)
        for kind, f in surroundings.stage_faults(ready, place / name, seed, sizes["around"], say).items():
            added(found.setdefault(kind, dict(tried=0, failures=[])), f)
        added(found["largest_file"], surroundings.limits(ready, place / name, seed, sizes["limits"], say))
    return found


def added(all_of_them: dict, f: dict):
    "Counts that are added up."
    all_of_them["tried"] += f["tried"]
    all_of_them["failures"] += f["failures"]


def two_writers(sizes, seed, place):
    import injected

    return dict(two_writers=injected.writers(place, sizes["writers"], say))


def interrupted_imports(sizes, seed, place):
    import surroundings

    return dict(signal_while_importing=surroundings.interrupted_imports(place, sizes["imports"], seed, say))


def extended(sizes, seed, place):
    "Finished runs that are asked for more, killed while they grow, and read meanwhile."
    import stages

    found = {}
    for name, stage in stages.EXTENSIONS.items():
        (place / name).mkdir()
        ready = kills.prepared(stage, place / name, sizes is not QUICK)
        trials = kills.trials_of(ready, place / name, seed, sizes["extended"], None, say)
        counts = kills.counted(trials)
        found[name] = dict(tried=counts["kills"], failures=[f for t in trials for f in t["faults"]],
                           note=f"{counts['comparisons']} resumed to their end and compared")
        if name == "more arms and newborns":
            only = using.READS if sizes is not QUICK else ("show", "netcdf", "zarr")
            found["readers beside a writer"] = using.readers_beside(ready, place / name, sizes["beside"], seed,
                                                                          say, only)
    (place / "unaddable").mkdir()
    return found | {"asked for what can't be added": using.unaddable(place / "unaddable", sizes["unaddable"], say)}


def named_otherwise(sizes, seed, place):
    return {"other spellings, moves and copies": using.spellings(place, sizes["spellings"] or using.SPELLINGS, seed,
                                                                 say)}


def inside_of_others(sizes, seed, place):
    return {"sweeps beside foreign writers": using.foreign_writers(place, sizes["foreign"], seed, say)}


def served(sizes, seed, place):
    "Servers under load and stop, and a population that is bred through one that dies."
    import stages

    if kills.ended(kills.forked(stages.for_servers, place, said=place / "prepared.said")):
        raise SystemExit(f"what servers need can't be made:\n{(place / 'prepared.said').read_text()}")
    (place / "load").mkdir(), (place / "bred").mkdir()
    base = stages.base_of_experts(place)
    return {"servers under load, stopped or killed": using.servers(base, place / "load", sizes["loads"], seed, say),
            "populations whose server dies": using.killed_servers(place, base, place / "bred", sizes["bred"], seed,
                                                                  say)}  # fmt: skip


def hostile_input(sizes, seed, place):
    import hostile

    return hostile.all_kinds(None, seed, sizes["hostile"], say)


PARTS = {"writers": two_writers, "around": surroundings_fail, "imports": interrupted_imports, "extended": extended,
         "spellings": named_otherwise, "foreign": inside_of_others, "servers": served,
         "hostile": hostile_input}  # fmt: skip
PLACES = {"writers": "injected", "around": "around", "imports": "around", "hostile": "hostile"}  # others: "using"


def all_faults(sizes: dict, seed: int, names, other_process: bool, parts, before: dict, keep) -> dict:
    "Counts of everything; `keep` is given them after each part."
    import torch
    from stages import warm_up

    torch.set_num_threads(1)
    found = before
    if "kills" in parts:
        found = before | killed(sizes, seed, names, other_process)
        keep(found)
    warm_up()
    for part, function in PARTS.items():
        if part not in parts:
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"evonb-{part}-") as folder:
            counts = function(sizes, seed, Path(folder))
        where = PLACES.get(part, "using")
        found = found | {where: found.get(where, {}) | counts}
        found["part_seconds"] = found.get("part_seconds", {}) | {part: round(time.monotonic() - began)}
        keep(found)
    return found


def table(found: dict) -> str:
    "The counts, for a terminal."
    rows = [f"{n}: {s['kills']} kills ({s['by_signal']}; {s['by_moment']}), {s['comparisons']} resumed runs equal to "
            f"the bit but for {len(s['failures'])}" for n, s in found.get("stages", {}).items()]  # fmt: skip
    for name, f in others(found).items():
        skipped = f", skipped: {f['skipped']}" if "skipped" in f else ""
        rows.append(f"{name.replace('_', ' ')}: {f['tried']} tried, {len(f['failures'])} failures{skipped}")
    if "total" in found:
        rows.append(f"{found['total']['kills']} kills in all, seed {found['seed']}, {found['seconds']} s")
    return "\n".join(rows)


def machine() -> str:
    "What this machine is, in words."
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{os.cpu_count()} cores, {memory:.0f} GB, {platform.system()} {platform.machine()}, one thread each"


def others(found: dict) -> dict:
    "What was counted beside kills of stages."
    return {name: f for where in ("injected", "around", "using", "hostile") for name, f in found.get(where, {}).items()}


def main() -> int:
    from stages import STAGES

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few of each")
    parser.add_argument("--stage", action="append", choices=list(STAGES), help="only this one; may be given again")
    parser.add_argument("--seed", type=int, default=0, help="decides when and where faults come")
    results = HERE.parents[1] / "docs" / "results"
    parser.add_argument("--out", type=Path, default=results / "faults.json", help="the counts (JSON)")
    parser.add_argument("--part", action="append", choices=["kills", *PARTS], help="only this one; may be given again")
    parser.add_argument("--share", type=float, default=1.0, help="of the full numbers, on a machine with little time")
    given = parser.parse_args()
    sizes = QUICK if given.quick else FULL if given.share == 1 else of_full(given.share)
    names = given.stage or [n for n in STAGES if n not in sizes["leave_out"]]
    before = json.loads(given.out.read_text()) if given.part and given.out.exists() else {}

    def keep(found):
        about = dict(command="make faults", machine=machine(), **found)
        if given.share < 1 or given.quick:  # what is less than the whole says so
            share = given.share if given.share < 1 else "a few"
            about["shares"] = about.get("shares", {}) | dict.fromkeys(given.part or ["all"], share)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(about, indent=1) + "\n")
    found = all_faults(sizes, given.seed, names, not given.quick, given.part or ["kills", *PARTS],
                       {k: v for k, v in before.items() if k not in ("command", "machine")}, keep)
    say(table(found))
    failed = found.get("total", dict(failures=0))["failures"] + sum(len(f["failures"]) for f in others(found).values())
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
