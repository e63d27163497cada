"""The built site over HTTP, for this machine only."""

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from .sources import BuildError, Project


class Quiet(SimpleHTTPRequestHandler):
    "Serves files, and says only what went wrong."

    def log_request(self, code="-", size="-"):
        if str(code) >= "400":
            super().log_request(code, size)


def server_of(project: Project, port: int) -> ThreadingHTTPServer:
    "A server of the built site on 127.0.0.1."
    folder = project.made / "html"
    if not (folder / "index.html").is_file():
        raise BuildError(f"there is no site in {folder} yet: run `make docs`.")
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(Quiet, directory=str(folder)))
    except OSError as e:
        raise BuildError(f"port {port} can't be used ({e.strerror}): choose another with --port, or none.") from e


def serve(project: Project, port: int = 0) -> int:
    "Serve until Ctrl-C."
    with server_of(project, port) as server:
        print(f"http://127.0.0.1:{server.server_port}/  (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0
