"""What was measured: speed against what people would use, and what runs and readers withstood.

`make bench` and `make faults` keep their figures in docs/results; the page is made of those files.
"""

import html
import json
import math
import re
from pathlib import Path

PARTS = dict(  # module of tests/bench -> heading
    roofline="How near the machine", peers="Beside what people would use", training="Training",
    population_memory="Populations in bounded memory", scoring="Scoring a population",
    merging="Merging adapters", encoding="Encoding models", features="Reading passages", wirings="Connectomes in files",
    planning_check="Plans against what was run", fleet="Many machines, simulated", looking="Looking at a mask",
    tree="Looking at a family", imports="Importing", litters="Litters, and attribution",
    beside="Side by side, and beside others' work", clients="Serving")  # fmt: skip
ELSEWHERE = dict(  # part -> what was seen on other processors, without the rows of a whole `make bench`
    training="The gain is this processor's, not every one's. On another it was found to be absent: seen on an Intel "
    "Xeon with AVX-512 and AMX, two cores, training makes 1.07 (3 layers of width 64), 1.14 (4 x 128) and 0.97 (6 x "
    "384) times the tokens of the plain masked loop at 25 % density, and 1.01 of the dense one. oneDNN, which "
    "multiplied there, was behind MKL: 66 against 74 GFLOP/s on one core. Since then the two are timed on the machine "
    "at hand and the faster is taken (the `products` of a row's machine), which those ratios don't have yet.")
SIDES = {"least": "≥", "most": "≤", "exactly": "="}


def rows_of(path: Path) -> dict:
    "A results file; empty where it hasn't been made."
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def short(x: float) -> str:
    "Three digits that count."
    return f"{x:.3g}" if abs(x) < 1000 else f"{x:,.0f}"


def ratio_of(row: dict) -> str:
    "The ratio with its quartiles, or the exponent of growth."
    if row.get("is_exponent"):
        return f"work^{row['ratio']:.2f}"
    spread = f" [{short(row['low'])}, {short(row['high'])}]" if "low" in row else ""
    return short(row["ratio"]) + spread


def took(row: dict) -> str:
    "What the two sides took, the seconds at each size, or what the row itself tells."
    if "told" in row:
        return row["told"]
    if "first_tokens_per_s" in row:
        return f"{row['first_tokens_per_s']:,.0f} against {row['second_tokens_per_s']:,.0f}\u00a0tokens/s"
    if "first_s" in row:
        return f"{short(row['first_s'])} against {short(row['second_s'])}\u00a0s"
    if row.get("is_exponent"):
        return ", ".join(f"{k}: {short(v)}\u00a0s" for k, v in row.get("seconds", {}).items())
    if "baseline_bytes" in row and isinstance(row.get("bytes"), (int, float)):
        return f"{row['bytes'] / 1e6:,.2f} against {row['baseline_bytes'] / 1e6:,.2f}\u00a0MB"
    return ""


def in_html(text: str) -> str:
    "Text, with what stands between backticks as code."
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))


def table(head: list[str], rows: list[list[str]]) -> str:
    "A table of text, whatever is in it."
    line = lambda cells, tag: "<tr>" + "".join(f"<{tag}>{in_html(c)}</{tag}>" for c in cells) + "</tr>"
    body = "".join(line(r, "td") for r in rows)
    top = f"<thead>{line(head, 'th')}</thead>"
    return f'<div class="evonb-wide"><table class="table">{top}<tbody>{body}</tbody></table></div>'


def bench_table(rows: list[tuple]) -> str:
    "One part's rows."
    says = {True: "yes", False: "no", None: ""}
    cells = [[name, row["what"], row["machine"]["processor"], ratio_of(row), row.get("aim", ""),
              says[row.get("reached")], took(row)] for name, row in rows]
    head = ["row", "what over what", "processor", "ratio [quartiles]", "aim", "reached", "medians"]
    return "\n\n".join([table(head, cells), *(f"{of(n, r, rows)}: {each(r['seconds'])}" for n, r in rows if parted(r))])


def of(name: str, row: dict, rows: list[tuple]) -> str:
    "A row's name as code, with its processor where it was measured on several."
    several = sum(n == name for n, _ in rows) > 1
    return f"`{name}`" + f" on {row['machine']['processor']}" * several


def parted(row: dict) -> bool:
    "Whether a row has the seconds of each part, beside its ratio."
    return isinstance(row.get("seconds"), dict) and not row.get("is_exponent")


def each(seconds: dict) -> str:
    "The seconds of each part, the longest first."
    return ", ".join(f"{k} {short(v)}\u00a0s" for k, v in sorted(seconds.items(), key=lambda x: -x[1]))


def drawing(rows: list[tuple]) -> str:
    "Every ratio that has an aim, on a logarithmic axis: the quartiles as a line, the aim as a tick."
    fits = lambda r: aim(r) is not None and r["ratio"] > 0 and not r.get("is_exponent")
    shown = [(of(n, r, rows).replace("`", ""), r) for n, r in rows if fits(r)]
    if not shown:
        return ""
    ends = [v for _, r in shown for v in (*(r.get(k, r["ratio"]) for k in ("ratio", "low", "high")), *aims(r))]
    low, high = math.floor(math.log10(min(ends))), math.ceil(math.log10(max(ends)))
    place = lambda v: 300 + 560 * (math.log10(v) - low) / (high - low)
    tall = 34 + 22 * len(shown)
    parts = [f'<line class="grid" x1="{place(10.0**k):.1f}" x2="{place(10.0**k):.1f}" y1="4" y2="{tall - 26}"/>'
             f'<text x="{place(10.0**k):.1f}" y="{tall - 8}" text-anchor="middle">{10.0**k:g}</text>'
             for k in range(low, high + 1)]
    parts += [mark(n, r, place, 16 + 22 * i) for i, (n, r) in enumerate(shown)]
    return (f'<div class="evonb-wide"><svg class="evonb-measured" role="img" aria-label="Every ratio with its aim; the '
            f'tables below hold the same figures" viewBox="0 0 880 {tall}">{"".join(parts)}</svg></div>\n\n'
            "Dots are ratios, the lines through them quartiles, and ticks aims, with the side of them that is aimed "
            "at. An orange dot misses its aim. What is over what is told in the tables.")


def aim(row: dict) -> float | None:
    "The number that the ratio is held to; None where it isn't."
    found = re.fullmatch(r"(?:.* )?([\d.]+)", row["aim"])
    return float(found[1]) if found else None


def aims(row: dict) -> dict:
    "The numbers that the ratio is held to, each with its side."
    if between := re.fullmatch(r"([\d.]+) to ([\d.]+)", row["aim"]):
        return {float(between[1]): SIDES["least"], float(between[2]): SIDES["most"]}
    return {aim(row): next((sign for word, sign in SIDES.items() if word in row["aim"]), "to")}


def mark(name: str, row: dict, place, y: int) -> str:
    "One row of the drawing."
    kind = "met" if row.get("reached") else "missed"
    low, high = place(row.get("low", row["ratio"])), place(row.get("high", row["ratio"]))
    ticks = [f'<line class="aim" x1="{place(v):.1f}" x2="{place(v):.1f}" y1="{y - 8}" y2="{y + 8}"/>'
             f'<text class="side" x="{place(v) + (-9 if side == "≥" else 3):.1f}" y="{y - 2}">{side}</text>'
             for v, side in aims(row).items()]
    return (f'<text x="290" y="{y + 4}" text-anchor="end">{html.escape(name)}</text>{"".join(ticks)}'
            f'<line class="{kind}" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="{kind}" cx="{place(row["ratio"]):.1f}" cy="{y}" r="5"/>')


def machines(rows: list[tuple]) -> str:
    "Where the rows were measured, each kind of machine once."
    kinds = {}
    for _, row in rows:
        m = row["machine"]
        said = (f"{m['processor']}, {m['cores']} cores, {m['memory_gb']} GB, {'a' if m['gpu'] else 'no'} GPU, "
                f"{m['system']}, Python {m['python']}, torch {m['torch']}")
        kinds.setdefault(said, []).append(row["date"])
    return "\n".join(f"- {html.escape(said)}; {min(dates)}" + (f" to {max(dates)}" if min(dates) != max(dates) else "")
                     for said, dates in kinds.items())


def missed(rows: list[tuple]) -> str:
    "What didn't reach its aim, and why."
    said = [f"- **{n}** on {r['machine']['processor']} ({ratio_of(r)}, aim {r['aim']}): "
            f"{r.get('why', 'the reason was not looked for.')}" for n, r in rows if r.get("reached") is False]
    return "\n".join(["## What didn't reach its aim", "", *said]) if said else ""


COLOURS = dict(zip(  # kind of operation -> colour
    ("products", "attention", "GELU", "norms, rotation, residuals", "loss", "embedding", "optimiser",
     "Python and dispatch"),
    ("#0072b2", "#d55e00", "#e69f00", "#56b4e9", "#009e73", "#999933", "#cc79a7", "#767676")))  # fmt: skip


def where_time_goes(rows: list[tuple]) -> str:
    "A bar a row: the share of each kind of operation; the dot is the share of the peak, the tick what it aims at."
    rows, place = [(n, r) for n, r in rows if "parts" in r], lambda v: 300 + 560 * v
    tall = 64 + 26 * len(rows)
    parts = [f'<line class="grid" x1="{place(k / 4):.0f}" x2="{place(k / 4):.0f}" y1="34" y2="{tall - 26}"/>'
             f'<text x="{place(k / 4):.0f}" y="{tall - 8}" text-anchor="middle">{25 * k}\u00a0%</text>'
             for k in range(5)]
    for i, (kind, colour) in enumerate(COLOURS.items()):
        x, y = 300 + 140 * (i % 4), 4 + 15 * (i // 4)
        parts.append(f'<rect x="{x}" y="{y}" width="10" height="10" fill="{colour}"/>'
                     f'<text x="{x + 14}" y="{y + 9}" class="side">{kind}</text>')
    for i, (name, row) in enumerate(rows):
        y, x = 48 + 26 * i, 300.0
        label = of(name, row, rows).replace("`", "")
        parts.append(f'<text x="290" y="{y + 4}" text-anchor="end">{html.escape(label)}</text>')
        for kind, colour in COLOURS.items():
            wide = 560 * row["parts"].get(kind, 0)
            parts.append(f'<rect x="{x:.1f}" y="{y - 8}" width="{wide:.1f}" height="16" fill="{colour}"/>')
            x += wide
        at, end = place(row["ratio"]), place(aim(row))
        parts.append(f'<line class="goal" x1="{end:.1f}" x2="{end:.1f}" y1="{y - 11}" y2="{y + 11}"/>'
                     f'<circle class="reach" cx="{at:.1f}" cy="{y}" r="5"/>')
    return ('<div class="evonb-wide"><svg class="evonb-measured" role="img" aria-label="Where the time of a step goes" '
            f'viewBox="0 0 880 {tall}">{"".join(parts)}</svg></div>\n\n'
            "Bars are shares of a step's time by torch's profiler, whose own time counts as Python and dispatch. White "
            "dots are the measured share of the peak, black and white ticks the aims.") if rows else ""  # fmt: skip


def simulated_table(rows: list[tuple]) -> str:
    "What the simulated fleets tell beside their makespan."
    mb = lambda n: f"{n / 1e6:,.1f}\u00a0MB"  # noqa: E731
    cells = [[name, f"{r['tasks']:,}", str(r["deaths"]), str(r["done_twice"]),
              short(r["calm"]) if r["calm"] else "", short(r["ratio"]),
              f"{short(r['driver_ms_a_task'])} + {short(r['ray_ms_a_task'])}\u00a0ms", f"{r['driver_busy']:.1%}",
              f"{short(r['bytes_a_task'] / 1e3)}\u00a0kB", mb(r["put_bytes"]), mb(r["fetched_bytes"]),
              mb(r["most_held_bytes"])] for name, r in rows if "driver_busy" in r]
    head = ["row", "tasks", "deaths", "done twice", "over the bound, nothing goes wrong", "with deaths and stragglers",
            "driver and Ray a task", "driver busy", "memory a task", "put", "fetched", "most held"]
    return table(head, cells) if cells else ""


def told_in(folder: Path, part: str) -> str:
    "What is said in words of a part, where something is."
    said = folder / f"{part}.md"
    return said.read_text(encoding="utf-8").strip() if said.is_file() else ""


def bench_part(rows: dict, folder: Path) -> list[str]:
    "The speed part of the page, of rows by name, one a processor."
    if not rows:
        return ["No benchmark has been kept yet: `make bench` writes docs/results/bench.json."]
    rows, parts = [(name, row) for name, found in rows.items() for row in found], {}
    for name, row in rows:
        parts.setdefault(row.get("part", ""), []).append((name, row))
    order = [*[p for p in PARTS if p in parts], *[p for p in parts if p not in PARTS]]
    beside = dict(roofline=where_time_goes, fleet=simulated_table)
    tables = [t for p in order for t in (f"### {PARTS.get(p, p)}", ELSEWHERE.get(p), told_in(folder, p),
                                         beside.get(p, lambda _: "")(parts[p]), bench_table(parts[p])) if t]
    return [drawing([row for p in order for row in parts[p]]), *tables, missed(rows), "Measured on:", machines(rows)]


def kills_part(found: dict) -> list[str]:
    "What runs withstood."
    if not found:
        return ["No fault suite has been kept yet: `make faults` writes docs/results/faults.json."]
    total = found["total"]
    by = lambda counts: ", ".join(f"{n} {k}" for k, n in counts.items())
    rows = [[name, str(s["kills"]), by(s["by_signal"]), by(s["by_moment"]), str(s["comparisons"]),
             str(len(s["failures"]))] for name, s in found["stages"].items()]
    return [f"{total['kills']} kills in {found['seconds']} s (seed {found['seed']}); {total['comparisons']} runs were "
            "resumed to their end and compared with the uninterrupted one, array by array: "
            f"{total['failures']} differed or couldn't be read.",
            table(["stage", "kills", "signals", "moments", "compared", "failures"], rows),
            *(part for where, said in COUNTED.items() for part in counted_part(found.get(where, {}), said)),
            *([counted_by(found)] if "machine" in found else [])]


def counted_by(found: dict) -> str:
    "The command and the machine of the counts, and of which parts these are fewer than the command makes."
    said = lambda share: share if isinstance(share, str) else f"{share:.0%}"
    less = html.escape(", ".join(f"{part}: {said(share)}" for part, share in found.get("shares", {}).items()))
    fewer = f" Of some parts these are fewer than it makes, for the machine was busy ({less})." if less else ""
    return f"Counted by `{found['command']}` on {html.escape(found['machine'])}.{fewer}"


COUNTED = {  # part of faults.json -> what stands above its table
    "injected": "Faults put into runs at a random share of their way:",
    "around": "What goes wrong around a run. One call fails at a random moment of evolving, developing, breeding and "
              "aligning (no memory, no more files, no room, an error of the disk), or a signal comes while the command "
              "is still importing. The run ends in an error of ours or doesn't notice, goes on without the fault, and "
              "is equal to the bit to the run that nothing happened to; no individual has a failure of the machine as "
              "its fitness:",
    "using": "Runs as they are used. Finished runs that are asked for more are killed while they grow, and must hold "
             "what they held at every moment; they are read meanwhile by `show`, `report`, `explore`, `align` and "
             "plain xarray; they go on under other spellings, moved and copied; sweeps meet live writers that aren't "
             "theirs; servers are stopped and killed under load:",
    "hostile": "Kinds of hostile input. Each case is a command line that must end well, or with one line that names "
               "what is wrong; a traceback, a hang, memory without bound, code that was run and a value that was "
               "misread are faults:"}


def counted_part(found: dict, said: str) -> list[str]:
    "What else was done to runs, and how often it went wrong."
    beside = lambda f: f.get("skipped") or f.get("line") or f.get("note") or (
        f"{f['requests']:,} requests" if "requests" in f else "")
    rows = [[name.replace("_", " "), str(f["tried"]), str(len(f["failures"])), beside(f)] for name, f in found.items()]
    return [said, table(["fault", "tried", "faults found", "skipped because, or note"], rows)] if rows else []


def fuzz_part(found: dict) -> list[str]:
    "What readers withstood."
    if not found:
        return ["No fuzzing has been kept yet: `make faults` writes docs/results/fuzz.json."]
    readers, about = found["readers"], found["about"]
    rows = [[name, f"{r['inputs']:,}", f"{r['slowest_s']:.2f} s", f"{r['grown_mb']:.0f} MB", str(r["faults"])]
            for name, r in readers.items()]
    reached = [r["inputs"] for name, r in readers.items() if name.startswith("evonb ")]
    more = ("Readers of files get most. Those called by a command are there by construction: every kind of file in a "
            "run of every kind, through each command that looks at it, goes on with it or builds on it; "
            f"{len(reached)} of them got {sum(reached):,} inputs, for a page takes a second.") if reached else ""
    return [more, f"{sum(r['inputs'] for r in readers.values()):,} inputs to {len(readers)} readers: "
            f"{sum(r['faults'] for r in readers.values())} crashed, raised another error than a reader's own, took "
            f"more than {about['seconds_per_input']:g} s or more than {about['bound_mb']:,.0f} MB.",
            table(["reader", "inputs", "slowest", "memory growth", "failures"], rows)]


def calibration_table(folder: Path) -> str:
    "How often verdicts are wrong, from what `make calibrate` kept."
    found = rows_of(folder / "calibration.json")
    if not found:
        return "*Not counted yet: `make calibrate`.*"

    def share(row: dict, key: str) -> str:
        return "" if row[key] is None else f"{100 * row[key]:.1f} ± {100 * row[f'{key}_se']:.1f}\u00a0%"

    rows = [[r["verdict"], r["design"], f"{r['n']:,}",
             "" if r["before"] is None else f"{100 * r['before']:.1f}\u00a0%",
             share(r, "wrong"), share(r, "power"), f"{r['effect']:g} {r['unit']}" if r["effect"] else ""]
            for r in found["rows"]]
    head = ["verdict", "design", "runs", "false claims before", "false claims now", "power", "at an effect of"]
    return (f"As many simulated runs as its row says, without and with an effect, from seed {found['seed']}; ± one "
            f"standard error.\n\n{table(head, rows)}")


def claim_effect(row: dict) -> str:
    "What a claim's trial measured, with its interval."
    if row["mean"] is None:
        return row["reason"]
    ends = "" if row["low"] is None else f" [{row['low']:+.3g}, {row['high']:+.3g}]"
    return f"{row['mean']:+.3g}{ends}\u00a0{row['unit']}"


def claim_cost(row: dict) -> str:
    "How long a trial took, and on how many tokens."
    tokens = f", {row['tokens'] / 1e6:.1f}M tokens" if row["tokens"] else ""
    core = f", {row['of_core']:,.0f}\u00a0s of a core" if row.get("of_core") else ""
    return f"{row['seconds']:,.0f}\u00a0s{core}{tokens}" if row["status"] == "tried" else ""


def claim_details(row: dict) -> str:
    "All that belongs to one claim, below the table."
    facts = "; ".join(f"{k}: {v}" for k, v in row["facts"].items())
    told = {"Claim": row["says"], "Source": row["source"], "Measured": f"{row['effect']} ({row['unit']})",
            "Counts for it": f"an interval above {row['bound']:+g} {row['unit']}: {row['why']}",
            "Counts against it": f"an interval below {row['bound']:+g} {row['unit']}",
            "Generalised over": row["units"] or ", ".join(row["over"]), "Controls": "; ".join(row["controls"]),
            "Beside": facts, "Tells nothing of": row["limits"],
            "Code": "other than it is now" if row["stale"] else "", "Again": f"`{row['command']}`"}
    lines = "".join(f"<dt>{html.escape(k)}</dt><dd>{in_html(str(v))}</dd>" for k, v in told.items() if v)
    return f"### {row['name']}\n\n<dl>{lines}</dl>"


def claims_parts(folder: Path, figures) -> str:
    "Published claims on trial, from what `make claims` kept: the figure, the table, and each claim."
    found = rows_of(folder / "claims.json").get("rows")
    if not found:
        return "*Not tried yet: `make claims`.*"
    from evonb.claims.court import claims_figure

    real = [r for r in found if not r["planted"]]
    count = lambda word: sum(r["verdict"] == word for r in real)  # noqa: E731
    not_so = count("doesn't")
    n_tried = sum(r["status"] == "tried" for r in real)
    clear = [r for r in real if r["verdict"] in ("holds", "doesn't")]
    stand = sum(r["p_holm"] < 0.05 for r in clear)
    of = lambda n, one, more: f"{n} {one if n == 1 else more}"  # noqa: E731
    said = (f"Of {len(real)} claims {n_tried} were tried: {of(count('holds'), 'holds', 'hold')}, "
            f"{of(not_so, 'does not', 'do not')}, {of(count('undecided'), 'is', 'are')} undecided. Each is judged by "
            f"itself at 5 %; corrected for all of them together (Holm), {stand} of the {len(clear)} clear verdicts "
            "stand.")
    head = ["claim", "verdict", "measured [95 %]", "bound", "over", "p", "p, Holm", "it would take", "cost"]
    p = lambda r, k: "" if r.get(k) is None else f"{r[k]:.2g}"  # noqa: E731
    rows = [[r["name"], r["verdict"], claim_effect(r), f"{r['bound']:+g}", r["units"], p(r, "p"),
             p(r, "p_holm"), r["needed"], claim_cost(r)] for r in found]
    shown = f'<div class="evonb-wide">{figures.keep(json.loads(claims_figure(found).to_json()))}</div>'
    return "\n\n".join([said, shown, table(head, rows), "## Each claim", *map(claim_details, found)])


def measured_page(folder: Path) -> str:
    "The page."
    said = folder / "speed.md"
    bench, kills, fuzz = (rows_of(folder / f"{n}.json") for n in ("bench", "faults", "fuzz"))
    parts = [
        "# Measured", "What this library was measured at, with the commands that measure it again.",
        "## Speed", "Each ratio is the median of neighbouring measurements in one run, because machines are shared and "
        "noisy; seconds are only to give a size. Growth is the exponent of time over 1, 2, 4 and 8 times the work: 1 "
        "is in proportion. Each row is one processor's; measured on another, it stands beside what is here.",
        "```sh\nmake bench                              # every row; minutes to an hour\n"
        'make bench ARGS="--pairs 5 connectome_load"   # one row\n```',
        *bench_part(bench.get("rows", {}), folder),
        "### In words, on the AMD EPYC" if said.is_file() else "",
        said.read_text(encoding="utf-8").strip() if said.is_file() else "",
        "## Faults", "Runs are killed in the middle of evolving, developing, breeding and aligning, some at random "
        "moments, some right before or after a change of a file, and resumed.",
        "```sh\nmake faults\n```", *kills_part(kills),
        "### Hostile files", "Every reader is given valid files with bits, lengths, numbers and structure changed, "
        "also with the checksum made good again, so that the code behind it is reached.", *fuzz_part(fuzz)]  # fmt: skip
    return "\n\n".join(p for p in parts if p) + "\n"
