"""A service manager as far as descriptors go: descriptor-store.py SOCKET FILE PROGRAM ARGS...

Runs the program with NOTIFY_SOCKET, keeps what it stores there, and says on standard output what happens. SIGUSR1
ends it with SIGTERM, SIGUSR2 with SIGKILL, and starts it again with what is kept (sd_listen_fds(3)); with FILE
there, which names files that are opened in front, it passes those too. SIGTERM ends both.
"""

import os
import select
import signal
import socket
import sys

path, garbage, program = sys.argv[1], sys.argv[2], sys.argv[3:]
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(path)
kept = {}
asked = []
wake, woken = os.pipe()
os.set_blocking(woken, False)


def say(*words):
    print(*words, flush=True)


def on_signal(number, _frame):
    asked.append(number)
    os.write(woken, b"x")


def start():
    passed = dict(kept)
    if os.path.exists(garbage):
        with open(garbage, encoding="utf8") as lines:
            for line in lines:
                name, file = line.split()
                passed = {name: os.open(file, os.O_RDWR), **{n: f for n, f in passed.items() if n != name}}
    pid = os.fork()
    if pid == 0:
        # Out of the way of the numbers that they shall have.
        moved = [os.dup2(fd, 200 + at, inheritable=True) for at, fd in enumerate(passed.values())]
        for at, fd in enumerate(moved):
            os.dup2(fd, 3 + at, inheritable=True)
            os.close(fd)
        os.closerange(3 + len(moved), 200)
        names = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(moved)), "LISTEN_FDNAMES": ":".join(passed)}
        os.execvpe(program[0], program, {**os.environ, "NOTIFY_SOCKET": path, **(names if moved else {})})
    say("started", pid, *passed)
    return pid


def receive():
    message, descriptors, _, _ = socket.recv_fds(notify, 4096, 16)
    fields = dict(line.split("=", 1) for line in message.decode().split("\n"))
    name = fields.get("FDNAME", "")
    if "FDSTORE" in fields:
        if name in kept:
            os.close(kept[name])
        kept[name] = descriptors.pop(0)
        say("stored", name)
    elif "FDSTOREREMOVE" in fields:
        if name in kept:
            os.close(kept.pop(name))
        say("removed", name)
    elif "READY" in fields:
        say("ready")
    elif "MAINPID" in fields:
        say("mainpid", fields["MAINPID"])
    for descriptor in descriptors:
        os.close(descriptor)


def end(pid, number):
    os.kill(pid, number)
    while True:
        # It must be heard while it ends: it may wait for an answer.
        while select.select([notify], [], [], 0.02)[0]:
            receive()
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            say("ended", os.waitstatus_to_exitcode(status))
            return


for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
    signal.signal(number, on_signal)
child = start()
while True:
    ready = select.select([notify, wake], [], [])[0]
    if notify in ready:
        receive()
        continue
    os.read(wake, 1)
    number = asked.pop(0)
    end(child, signal.SIGKILL if number == signal.SIGUSR2 else signal.SIGTERM)
    if number == signal.SIGTERM:
        sys.exit(0)
    child = start()
