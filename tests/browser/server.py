"""A JupyterLab of its own: own settings, own token, a free port, ended by its own process id."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from .waiting import SECONDS

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
           "IPYTHONDIR": "ipython", "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # cells out of sight are rendered, too
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    "docmanager-extension/plugin": {"autosave": False},
    "extensionmanager-extension/plugin": {"enabled": False},
}
# The server's configuration: it ends itself when the process of the tests is gone, however that ended.
ORPHAN_WATCH = """
import os, signal, threading, time
def alive():
    try: os.kill({tests}, 0)
    except ProcessLookupError: return False
    return True
def watch():
    while alive(): time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(20)
    os.killpg(os.getpgrp(), signal.SIGKILL)
threading.Thread(target=watch, daemon=True).start()
"""


def isolated(home: Path) -> dict:
    "An environment whose Jupyter folders all lie below one folder, with this Python as its only kernel."
    ours = ("JUPYTER", "IPYTHON", "EVONB_STATIC", "MAKE", "MFLAGS")
    env = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    for name, folder in FOLDERS.items():
        env[name] = str(home / folder)
        (home / folder).mkdir(parents=True, exist_ok=True)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH", "")]))
    write_kernel(home / "data" / "kernels" / "python3")
    for name, values in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    return env


def write_kernel(folder: Path):
    "A kernel specification that runs the tests' own Python."
    folder.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Python 3", "language": "python", "metadata": {"debugger": False}}
    (folder / "kernel.json").write_text(json.dumps(spec))


def free_port() -> int:
    "A port nobody listens on now."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def notebook_json(cells: list[str]) -> dict:
    "A notebook of these cells; those that begin with `# md` and a line break are prose."
    def cell(i, text):
        if text.startswith("# md\n"):
            return {"cell_type": "markdown", "id": f"cell{i}", "metadata": {}, "source": text.removeprefix("# md\n")}
        return {"cell_type": "code", "id": f"cell{i}", "metadata": {}, "source": text, "outputs": [],
                "execution_count": None}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": [cell(i, text) for i, text in enumerate(cells)], "metadata": {"kernelspec": kernel},
            "nbformat": 4, "nbformat_minor": 5}


class Server:
    "A process of ours that serves pages at 127.0.0.1, in a process group of its own."

    def __init__(self, home: Path, name: str):
        self.home, self.name, self.process = Path(home), name, None
        self.root = self.home / "root"
        self.root.mkdir(parents=True, exist_ok=True)
        self.env = isolated(self.home)
        self.token, self.url, self.log = secrets.token_hex(16), "", self.home / f"{name}.log"
        (self.home / "config" / "jupyter_server_config.py").write_text(ORPHAN_WATCH.format(tests=os.getpid()))

    def start(self, command, ready: str):
        "Starts `command(port)` and waits until the page `ready` answers; a port that was taken meanwhile is changed."
        for _ in range(3):
            port = free_port()
            self.url = f"http://127.0.0.1:{port}"
            with self.log.open("wb") as log:
                self.process = subprocess.Popen(command(port), env=self.env, cwd=self.root, stdin=subprocess.DEVNULL,
                                                stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
            if self._answers(ready):
                return self
            if self.process.returncode is None:  # it runs and doesn't answer: another port won't help
                break
        self.stop()
        raise AssertionError(f"{self.name} didn't start:\n{self.tail()}")

    def _answers(self, ready: str) -> bool:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.ask("GET", ready)
                return True
            time.sleep(0.1)
        return False

    def ask(self, method: str, path: str):
        "The server's JSON answer (None when it is empty or a page)."
        request = urllib.request.Request(self.url + path, method=method)
        request.add_header("Authorization", f"token {self.token}")
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            body = answer.read()
        return json.loads(body) if body[:1] in (b"{", b"[") else None

    def tail(self, lines: int = 40) -> str:
        "The end of the server's log."
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self):
        "Ends our process: politely, so that it ends its kernels; then its whole group."
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(15)


class Lab(Server):
    "JupyterLab (at /lab, /doc) and Notebook 7 (at /notebooks), served by one process."

    def __init__(self, home: Path):
        super().__init__(home, "jupyterlab")
        self.start(self._command, "/api/status")

    def _command(self, port: int) -> list[str]:
        options = {
            "ip": "127.0.0.1", "port": port, "ServerApp.port_retries": 0, "ServerApp.root_dir": self.root,
            "IdentityProvider.token": self.token, "LabApp.expose_app_in_browser": True,
            "JupyterNotebookApp.expose_app_in_browser": True,
            "LabApp.extension_manager": "readonly", "LanguageServerManager.autodetect": False,
            "ServerApp.terminals_enabled": False, "ZMQChannelsWebsocketConnection.iopub_data_rate_limit": 1e9,
        }
        return [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
                *(f"--{k}={v}" for k, v in options.items())]

    def notebook(self, cells: list[str], name: str = "x.ipynb") -> str:
        "Writes a notebook below the server's folder; returns its name."
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(notebook_json(cells)), encoding="utf-8")
        return name

    def end_kernels(self):
        "Ends every session and kernel; the next notebook gets a fresh one."
        for session in self.ask("GET", "/api/sessions"):
            with contextlib.suppress(urllib.error.HTTPError):  # gone by itself
                self.ask("DELETE", f"/api/sessions/{session['id']}")
        for kernel in self.ask("GET", "/api/kernels"):
            with contextlib.suppress(urllib.error.HTTPError):
                self.ask("DELETE", f"/api/kernels/{kernel['id']}")
