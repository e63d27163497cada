#!/usr/bin/env python3
"""evonb's site, from its notebooks.

    docs/build.py execute [NOTEBOOK ...]   run the notebooks; what they show is kept in _docs/cache
    docs/build.py html [NOTEBOOK ...]      run what isn't run yet, and write the site to _docs/html
                                           (of some notebooks only: to _docs/part/html)
    docs/build.py serve                    show _docs/html on this machine

A failing cell, a warning of Sphinx and a broken link end it with exit code 1.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from maker.execution import execute  # noqa: E402
from maker.sources import BuildError, Project  # noqa: E402


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("execute", "html", "serve"))
    parser.add_argument("notebooks", nargs="*", help="only these, by name: 12_connectome")
    parser.add_argument("--project", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--workers", type=int, default=2, help="notebooks that run at once (2)")
    parser.add_argument("--fresh", action="store_true", help="run again what was run before")
    parser.add_argument("--stale", action="store_true",
                        help="take earlier executions, whatever they rest on; leave out what has none")
    parser.add_argument("--port", type=int, default=0, help="of serve; 0 takes a free one")
    return parser.parse_intermixed_args(argv)


def main(argv=None) -> int:
    given = arguments(argv)
    project = Project(given.project.resolve(), part=bool(given.notebooks) or given.stale)
    try:
        if given.command == "serve":
            from maker.serving import serve

            return serve(project, given.port)
        ran = execute(project, given.notebooks, given.workers, given.fresh, given.stale)
        if given.command == "html":
            from maker.writing import build

            paths = sorted(r.path for r in ran)
            print(f"the site is at {build(project, paths, given.stale)}")
    except BuildError as e:
        print(e, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
