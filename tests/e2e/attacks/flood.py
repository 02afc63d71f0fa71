"""An agent against its own units: floods whatever of them it reaches. One argument says what.

  relay      connections to the model relay's socket, with nothing to hand over, for 5 s
  provider   1000 connections to its own provider, each with half a request, held for 3 s
  stdin      garbage into pi's input             stdout     garbage into pi's output, and its end cut off
  commands   forged commands into pi's input
"""

import os
import socket
import sys
import time


def pi():
    """pi's directory in /proc: the first of this program's ancestors that is in the sandbox."""
    found = None
    pid = os.getppid()
    while os.path.exists(f"/proc/{pid}/stat") and pid:
        found = f"/proc/{pid}"
        with open(f"{found}/stat") as file:
            pid = int(file.read().rsplit(")", 1)[1].split()[1])
    return found


def attempt(function):
    try:
        return function() or "worked"
    except OSError as error:
        return error.strerror.replace(" ", "-")


def relay():
    end, made, refused, held = time.monotonic() + 5, 0, 0, []
    while time.monotonic() < end:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        peer.settimeout(0.05)
        try:
            peer.connect("/run/relay-model/relay.sock")
            made += 1
            if made % 2:
                peer.send(os.urandom(200))
        except OSError:
            refused += 1
        held = [*held[-500:], peer]
    print(f"made={made}\nrefused={refused}")


def provider():
    held, refused = [], 0
    for _ in range(1000):
        peer = socket.socket()
        peer.settimeout(0.01)
        try:
            peer.connect(("127.0.0.1", 4180))
            peer.send(b"POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1:4180\r\nX-Slow: ")
        except OSError:
            refused += 1
        held.append(peer)
    end = time.monotonic() + 3
    while time.monotonic() < end:
        for peer in held:
            try:
                peer.send(b"x")
            except OSError:
                pass
        time.sleep(0.1)
    print(f"made={len(held) - refused}\nrefused={refused}")


def into(descriptor, text, flags=0):
    """Writes into a descriptor of pi's until it is full, a thousand times at most."""
    fd = os.open(f"{pi()}/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | flags)
    written = 0
    for _ in range(1000):
        try:
            written += os.write(fd, text)
        except BlockingIOError:
            break
    print(f"bytes={written}")


def stdin():
    print("wrote=" + attempt(lambda: into(0, os.urandom(4000).replace(b"\n", b"") + b"\n")))


def commands():
    """What the gateway itself would say, said by the agent."""
    lines = ['{"type":"set_model","provider":"gateway","modelId":"none"}', '{"type":"get_state","id":"1"}', '{"type":"abort"}']
    print("wrote=" + attempt(lambda: into(0, ("\n".join(["", *lines, ""])).encode())))


def stdout():
    print("wrote=" + attempt(lambda: into(1, os.urandom(4000) + b"\n", os.O_APPEND)))
    print("cut=" + attempt(lambda: os.truncate(f"{pi()}/fd/1", 0)))


globals()[sys.argv[1]]()
