"""An executable that takes the place of the interpreter, whose processes are forked from one that has imported torch.

For programs that start ``sys.executable`` by themselves: the server of the web interface, torchrun, notebooks. The
executable is a small program that asks a server for a fork of it, gives it its own standard streams, environment and
folder, forwards signals, and ends as it ends; a fork whose executable is killed is killed too.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
import traceback
from functools import lru_cache
from pathlib import Path

from forked import context

FORWARDED = (signal.SIGINT, signal.SIGTERM)
CLIENT = '''#!{python} -SE
"""Ask the server of forked_python.py for a process, and end as it does."""
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
asked = json.dumps([sys.argv, dict(os.environ), os.getcwd()]).encode()
socket.send_fds(server, [len(asked).to_bytes(8, "big")], [0, 1, 2])
server.sendall(asked)
answers = server.makefile()
process = int(answers.readline())
for number in {forwarded}:
    signal.signal(number, lambda number, frame: os.kill(process, number))
code = int(answers.readline() or 1)
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
os._exit(code)
'''


@lru_cache
def python() -> str:
    """The path of the executable; its server is started once in a session, and ends with it."""
    folder = Path(tempfile.mkdtemp(prefix="python-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    address, program = folder / "socket", folder / "python"
    forwarded = [int(number) for number in FORWARDED]
    program.write_text(CLIENT.format(python=sys.executable, address=str(address), forwarded=forwarded))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    process = context().Process(target=_serve, args=(str(address), os.getpid()), daemon=True)
    process.start()
    end = time.monotonic() + 60
    while not address.exists():
        assert process.is_alive() and time.monotonic() < end
        time.sleep(0.01)
    return str(program)


def _serve(address: str, session: int) -> None:
    """Fork processes until the session has ended."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{address}.new")
    server.listen(64)
    os.rename(f"{address}.new", address)
    ended, wake = socket.socketpair()
    for one in (ended, wake):
        one.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    waiting: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        for one in (server, ended):
            selector.register(one, selectors.EVENT_READ)
        while _runs(session):
            for key, _ in selector.select(2.0):
                if key.fileobj is server:
                    client, _ = server.accept()
                    process = _forked(client, [server, ended, wake, *waiting.values()])
                    waiting[process] = client
                    selector.register(client, selectors.EVENT_READ, process)
                elif key.fileobj is ended:
                    with contextlib.suppress(BlockingIOError):
                        ended.recv(4096)
                elif key.data in waiting:  # its executable was killed
                    os.kill(key.data, signal.SIGKILL)
                    selector.unregister(key.fileobj)
            for process in list(waiting):
                found, status = os.waitpid(process, os.WNOHANG)
                if found:
                    client = waiting.pop(process)
                    with contextlib.suppress(OSError):
                        client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
                    with contextlib.suppress(KeyError):
                        selector.unregister(client)
                    client.close()
    for process in waiting:
        os.kill(process, signal.SIGKILL)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _forked(client: socket.socket, others: list[socket.socket]) -> int:
    """Fork a process that does what a client asks for; its number, which is sent to the client."""
    head, streams, _, _ = socket.recv_fds(client, 8, 3)
    size, asked = int.from_bytes(head, "big"), b""
    while len(asked) < size:
        asked += client.recv(size - len(asked))
    words, environment, folder = json.loads(asked)
    process = os.fork()
    if process == 0:
        for one in (client, *others):
            one.close()
        os._exit(_run(words, environment, folder, streams))
    for stream in streams:
        os.close(stream)
    client.sendall(f"{process}\n".encode())
    return process


def _run(words: list[str], environment: dict[str, str], folder: str, streams: list[int]) -> int:
    """``python WORDS``; the exit code."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, stream in enumerate(streams):
        os.dup2(stream, descriptor)
        os.close(stream)
    for name, descriptor, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    os.environ.clear()
    os.environ |= environment
    os.chdir(folder)
    sys.executable, words = words[0], words[1:]
    import torch

    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", 1)))
    try:
        _main(words)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    return code


def _main(words: list[str]) -> None:
    """What the interpreter does with ``-m MODULE``, ``-c PROGRAM`` or a file, and arguments."""
    while words[0] in ("-u", "-B"):
        words = words[1:]
    kind, rest = words[0], words[1:]
    if kind == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv[:] = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.path.insert(0, "")
        sys.argv[:] = ["-c", *rest]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path.insert(0, str(Path(kind).resolve().parent))
        sys.argv[:] = words
        runpy.run_path(kind, run_name="__main__")
