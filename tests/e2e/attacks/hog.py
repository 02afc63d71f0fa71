"""Takes as much as it can of one thing; says how far it came and what stopped it, as `name=value` lines.

  memory     bytes in this process, in steps of 16 MiB       shm      the same in /dev/shm
  forks      processes that stay                             inodes DIRECTORY COUNT   empty files
  files PATH each way to a file of 1 TiB                     fill PATH SIZE_MIB       bytes in one file
"""

import errno
import os
import signal
import sys

MIB = 1 << 20
TIB = 1 << 40


def tell(**facts):
    for name, value in facts.items():
        print(f"{name}={value}", flush=True)


def stopped_by(attempt):
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "nothing"


def memory(limit_mib="16384"):
    held = []
    for step in range(0, int(limit_mib), 16):
        held.append(b"x" * (16 * MIB))
        tell(mib=step + 16)
    tell(stopped="nothing")


def forks(limit="5000"):
    count = 0
    while count < int(limit):
        try:
            pid = os.fork()
        except OSError as error:
            return tell(forked=count, stopped=errno.errorcode[error.errno])
        if pid == 0:
            # A daemon that minds no polite signal, and nothing of the tool's is kept open by it.
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            for descriptor in (0, 1, 2):
                os.close(descriptor)
            while True:
                signal.pause()
        count += 1
    tell(forked=count, stopped="nothing")


def inodes(directory, limit):
    os.makedirs(directory, exist_ok=True)
    count = 0
    try:
        while count < int(limit):
            os.close(os.open(f"{directory}/{count}", os.O_CREAT | os.O_WRONLY))
            count += 1
        word = "nothing"
    except OSError as error:
        word = errno.errorcode[error.errno]
    tell(files=count, stopped=word)


def files(path):
    # Without this the first attempt would end the program.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    tell(sparse=stopped_by(lambda: os.ftruncate(fd, TIB)))
    tell(seek=stopped_by(lambda: os.pwrite(fd, b"x", TIB - 1)))
    tell(fallocate=stopped_by(lambda: os.posix_fallocate(fd, TIB - MIB, MIB)))
    # To the last byte of what one file may have, and one beyond.
    tell(last=stopped_by(lambda: os.pwrite(fd, b"x", (4 << 30) - 1)))
    tell(beyond=stopped_by(lambda: os.pwrite(fd, b"x", 4 << 30)))
    tell(size=os.fstat(fd).st_size)
    os.unlink(path)


def fill(path, size_mib):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    block = b"x" * MIB
    written = 0
    try:
        while written < int(size_mib) * MIB:
            written += os.write(fd, block)
        word = "nothing"
    except OSError as error:
        word = errno.errorcode[error.errno]
    tell(mib=written // MIB, stopped=word)


def shm():
    fill("/dev/shm/hog", 16384)


{"memory": memory, "forks": forks, "inodes": inodes, "files": files, "fill": fill, "shm": shm}[sys.argv[1]](*sys.argv[2:])
