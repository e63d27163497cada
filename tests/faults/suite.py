"""The whole fault suite but for fuzzing, with its counts: kills of every stage, and faults that are injected.

    python tests/faults/suite.py                  the full suite; counts go to docs/results/faults.json
    python tests/faults/suite.py --quick --out F  a few of each"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import kills  # noqa: E402  (first: it keeps torch to one thread)

FULL = dict(kills=40, injected=3, flips=60, writers=20, leave_out=())
QUICK = dict(kills=1, injected=1, flips=6, writers=1, leave_out=("align-brain",))


def say(text):
    print(text, flush=True)


def all_faults(sizes: dict, seed: int, names, other_process: bool) -> dict:
    "Counts of everything."
    import injected

    def on_stage(ready, place, seed, say):
        n = sizes["injected"] if sizes is FULL or ready.stage.name == "evolve" else 0
        return injected.on_stage(ready, place, seed, n, sizes["flips"], say)
    found = kills.suite(names, seed, sizes["kills"], None, other_process, say, on_stage)
    with tempfile.TemporaryDirectory(prefix="evonb-writers-") as folder:
        writers = injected.writers(Path(folder), sizes["writers"], say)
    by_fault = {}
    for stage in found["injected"].values():
        for name, f in stage.items():
            of_all = by_fault.setdefault(name, f | dict(tried=0, failures=[]))
            of_all["tried"] += f["tried"]
            of_all["failures"] += f["failures"]
    return found | dict(injected=by_fault | dict(two_writers=writers))


def table(found: dict) -> str:
    "The counts, for a terminal."
    rows = [f"{n}: {s['kills']} kills ({s['by_signal']}; {s['by_moment']}), {s['comparisons']} resumed runs equal to "
            f"the bit but for {len(s['failures'])}" for n, s in found["stages"].items()]  # fmt: skip
    for name, f in found["injected"].items():
        skipped = f", skipped: {f['skipped']}" if "skipped" in f else ""
        rows.append(f"{name.replace('_', ' ')}: {f['tried']} tried, {len(f['failures'])} failures{skipped}")
    return "\n".join([*rows, f"{found['total']['kills']} kills in all, seed {found['seed']}, {found['seconds']} s"])


def main() -> int:
    from stages import STAGES

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few of each")
    parser.add_argument("--stage", action="append", choices=list(STAGES), help="only this one; may be given again")
    parser.add_argument("--seed", type=int, default=0, help="decides when and where faults come")
    results = HERE.parents[1] / "docs" / "results"
    parser.add_argument("--out", type=Path, default=results / "faults.json", help="the counts (JSON)")
    given = parser.parse_args()
    sizes = QUICK if given.quick else FULL
    names = given.stage or [n for n in STAGES if n not in sizes["leave_out"]]
    found = all_faults(sizes, given.seed, names, not given.quick)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    say(table(found))
    failed = found["total"]["failures"] + sum(len(f["failures"]) for f in found["injected"].values())
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
