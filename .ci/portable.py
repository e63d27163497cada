"""What depends on numerics, on the processors that this one can stand for: `make test-portable`.

Tests marked `numerics` run with the instructions of an old processor, of one with AVX2 and of one with AVX-512, each
with one thread and with two, and with torch's own products where oneDNN is taken. The tests in a browser run beside
three busy processes, as on a machine that others use, too. `--short` is the part of `make test`: training, by the
lowest instructions and two threads.
"""

import argparse
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {  # which of a processor's instructions torch, oneDNN and MKL may use; one that has fewer uses fewer
    "lowest": dict(ATEN_CPU_CAPABILITY="default", ONEDNN_MAX_CPU_ISA="SSE41", MKL_ENABLE_INSTRUCTIONS="SSE4_2"),
    "AVX2": dict(ATEN_CPU_CAPABILITY="avx2", ONEDNN_MAX_CPU_ISA="AVX2", MKL_ENABLE_INSTRUCTIONS="AVX2"),
    "AVX-512": dict(ATEN_CPU_CAPABILITY="avx512", ONEDNN_MAX_CPU_ISA="AVX512_CORE", MKL_ENABLE_INSTRUCTIONS="AVX512"),
    "all, torch's products": dict(EVONB_PRODUCTS="torch"),
}
NEWBORN = "test_a_newborn_that_fails_fails_for_all_and_the_next_one_is_raised"
SHORT = ["tests/training/test_gpt.py", "tests/training/test_lifetime.py",  # what `make test` runs of it
         f"tests/training/test_parallel.py::{NEWBORN}"]  # files by name: to gather all tests takes as long
BUSY = "while True: pass"
LIMIT = 3 * 3600  # seconds that one setting may take


@contextmanager
def busy(n: int):
    "Processes that each keep a core busy."
    made = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(n)]
    try:
        yield
    finally:
        for p in made:
            p.kill()
            p.wait()


def tested(what: list[str], setting: dict, threads: int) -> tuple[int, float]:
    "Run these tests under a setting: pytest's exit code, and the seconds it took."
    setting = {k: str(threads) for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")} | setting
    setting["OMP_WAIT_POLICY"] = "PASSIVE"  # threads that wait for each other leave the core to others
    print("\n==", *(f"{k}={v}" for k, v in setting.items()), "pytest", *what, flush=True)
    env = os.environ | dict(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false") | setting
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", *what], cwd=ROOT, env=env, timeout=LIMIT)
    return done.returncode, time.monotonic() - began


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--short", action="store_true", help="training alone, the lowest instructions and two threads")
    p.add_argument("--no-browser", action="store_true", help="leave the tests in a browser out")
    p.add_argument("more", nargs="*", help="after --: what pytest is given, such as -x")
    args = p.parse_args()
    marked, rows = ["-m", "numerics and not faults", *args.more], []
    if args.short:
        rows.append(("lowest", 2, *tested([*marked, *SHORT], SETTINGS["lowest"], 2)))
    else:
        rows += [(name, n, *tested(marked, setting, n)) for name, setting in SETTINGS.items() for n in (1, 2)]
        if not args.no_browser:
            with busy(3):
                rows.append(("a browser, three busy", 1, *tested(["tests/browser", *args.more], {}, 1)))
    print(f"\n{'instructions':24} {'threads':>7} {'seconds':>8}  result")
    for name, threads, code, seconds in rows:
        print(f"{name:24} {threads:7} {seconds:8.0f}  {'passed' if code == 0 else f'FAILED ({code})'}")
    return int(any(row[2] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
