"""Hands a listener of its own over to the model relay, as a sandbox's first process does; prints the answer.

Arguments: the relay's socket, the port to listen on, a run's id.
"""

import array
import socket
import sys

path, port, run = sys.argv[1:]
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
# Where pi's provider listens already, the same port of another loopback address is free; so is no one's address.
for address in ("127.0.0.1", "127.0.0.2"):
    try:
        listener.bind((address, int(port)))
        break
    except OSError:
        pass
listener.listen(8)
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as relay:
    relay.settimeout(10)
    relay.connect(path)
    descriptor = array.array("i", [listener.fileno()])
    relay.sendmsg([f"1 model {run}".encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)])
    print("answer=" + relay.recv(512).decode())
