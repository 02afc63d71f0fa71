"""Leaves descriptors that take long to close in the queue of a socket that its server is about to close.

Arguments: the socket's path, how many, and for how many seconds. A connected TCP socket with SO_LINGER whose peer reads
nothing blocks whoever closes its last copy. The first message is refused; the second, with the socket, stays unread. Both
are sent by one system call, so that the server cannot be in between.
"""

import ctypes
import os
import socket
import struct
import sys
import time


class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_char_p), ("length", ctypes.c_size_t)]


class Header(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("name_length", ctypes.c_uint32), ("vector", ctypes.POINTER(Vector)),
                ("vectors", ctypes.c_size_t), ("control", ctypes.c_char_p), ("control_length", ctypes.c_size_t),
                ("flags", ctypes.c_size_t), ("sent", ctypes.c_size_t)]


def both(server, descriptor):
    rights = struct.pack("NiiiI", 20, socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor, 0)
    texts = [Vector(b"bad", 3), Vector(b"worse", 5)]
    headers = (Header * 2)(
        Header(None, 0, ctypes.pointer(texts[0]), 1, None, 0, 0, 0),
        Header(None, 0, ctypes.pointer(texts[1]), 1, rights, len(rights), 0, 0),
    )
    sent = ctypes.CDLL(None, use_errno=True).sendmmsg(server.fileno(), headers, 2, 0)
    return "left" if sent == 2 else f"sent {sent}, error {ctypes.get_errno()}"


path, count, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(count)
peers = []
for _ in range(count):
    # A process for each: its end closes its own copy without a wait, whoever has the last one.
    child = os.fork()
    if child == 0:
        slow = socket.create_connection(listener.getsockname())
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, seconds))
        slow.setblocking(False)
        try:
            while True:
                slow.send(bytes(65536))
        except BlockingIOError:
            pass
        server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        server.connect(path)
        print(f"{both(server, slow.fileno())}=1", flush=True)
        os._exit(0)
    peers.append(listener.accept()[0])
    os.waitpid(child, 0)
    time.sleep(0.05)
time.sleep(seconds)
