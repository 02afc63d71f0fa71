"""What a program can ask of the kernel: one line `name=worked` or `name=ERRNO` for each attempt.

The same file runs inside a sandbox, where everything must fail, and outside it as root, where everything must work; so a
typing error in an attempt shows as a control that fails. Each attempt has a process of its own: a filter may kill it.
x86-64 only, because it uses numbers of system calls.
"""

import ctypes
import errno
import mmap
import os
import platform
import resource
import signal
import socket
import tempfile

assert platform.machine() == "x86_64", "the numbers in this file are those of x86-64"
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def zeros(size, *words):
    """A buffer that begins with these 32-bit words."""
    return ctypes.create_string_buffer(b"".join(w.to_bytes(4, "little") for w in words), size)


def sleeping_child():
    pid = os.fork()
    if pid == 0:
        signal.alarm(5)
        signal.pause()
        os._exit(0)
    return pid


def with_child(attempt):
    pid = sleeping_child()
    try:
        return attempt(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


# One new namespace of each kind, by unshare; a user namespace is what everybody may make elsewhere.
NAMESPACES = {
    "time": 0x80, "mount": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000,
    "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000,
}
NEWUSER = 0x10000000


def cloned(number, *arguments):
    pid = call(number, *arguments)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def clone3(flags):
    # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls
    words = [flags & 0xFFFFFFFF, flags >> 32] + [0] * 6 + [signal.SIGCHLD, 0]
    cloned(435, zeros(88, *words), 88)


def foreign_call():
    """getpid as a 32-bit program asks for it, with `int 0x80`."""
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("b814000000cd80c3"))
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    result = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
    if result != os.getpid():
        raise OSError(-result if result < 0 else errno.EINVAL, "")


def vm(number):
    """process_vm_readv or writev on a child: eight bytes of this variable."""
    target = ctypes.create_string_buffer(b"secret!", 8)
    own = ctypes.create_string_buffer(8)

    def attempt(pid):
        vectors = [(ctypes.c_size_t * 2)(ctypes.addressof(b), 8) for b in (own, target)]
        call(number, pid, vectors[0], 1, vectors[1], 1, 0)
    with_child(attempt)


def opened(family, kind, protocol=0):
    socket.socket(family, kind, protocol).close()


def mounted():
    path = tempfile.mkdtemp()
    call(165, b"none", path.encode(), b"tmpfs", 0, b"")
    call(166, path.encode(), 2)


def made_node(major, minor):
    path = tempfile.mktemp(dir="/tmp")
    os.mknod(path, 0o20600, os.makedev(major, minor))
    os.unlink(path)


def made_set_uid():
    path = tempfile.mktemp(dir="/tmp")
    os.close(os.open(path, os.O_CREAT, 0o600))
    os.chmod(path, 0o4755)


def written(path, text=None):
    """Opens a file of the kernel for writing and writes what it holds already, or this."""
    with open(path, "rb") as file:
        text = text or file.read()
    with open(path, "wb", buffering=0) as file:
        file.write(text)


def read(path):
    with open(path, "rb", buffering=0) as file:
        file.read(1)


def core_dump():
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def core_written():
    os.chdir(tempfile.mkdtemp())
    pid = os.fork()
    if pid == 0:
        os.abort()
    if not os.WCOREDUMP(os.waitpid(pid, 0)[1]):
        raise OSError(errno.EPERM, "")


def bound(function, *arguments):
    return lambda: function(*arguments)


def reaching(*expected):
    """An attempt that is known to end with one of these errors once the kernel looks at its arguments."""
    *expected, attempt = expected

    def reached():
        try:
            attempt()
        except OSError as error:
            if error.errno not in expected:
                raise
    return reached


ATTEMPTS = {f"unshare-{name}": bound(call, 272, flag) for name, flag in NAMESPACES.items()}
ATTEMPTS |= {f"clone-{name}": bound(cloned, 56, flag | signal.SIGCHLD, 0, 0, 0, 0)
             for name, flag in NAMESPACES.items() if name != "time"}
ATTEMPTS |= {
    "clone3-user": bound(clone3, NEWUSER),
    "clone3-pid": bound(clone3, NAMESPACES["pid"]),
    "setns": lambda: call(308, os.open("/proc/self/ns/uts", os.O_RDONLY), 0),
    "io_uring_setup": lambda: call(425, 1, zeros(120)),
    "io_setup": lambda: call(206, 1, zeros(8)),
    # BPF_MAP_CREATE of an array of one element
    "bpf": lambda: call(321, 0, zeros(72, 2, 4, 4, 1), 72),
    "ptrace-attach": lambda: with_child(lambda pid: call(101, 16, pid, 0, 0)),
    "ptrace-seize": lambda: with_child(lambda pid: call(101, 0x4206, pid, 0, 0)),
    "ptrace-traceme": lambda: call(101, 0, 0, 0, 0),
    "process_vm_readv": lambda: vm(310),
    "process_vm_writev": lambda: vm(311),
    "kcmp": lambda: call(312, os.getpid(), os.getpid(), 0, 0, 0),
    "pidfd_getfd": lambda: call(438, os.pidfd_open(os.getpid()), 1, 0),
    "pidfd_open": lambda: call(434, os.getpid(), 0),
    "perf_event_open": lambda: call(298, zeros(128, 1, 64), 0, -1, -1, 0),
    "add_key": lambda: call(248, b"user", b"pi-gateway-attack", b"x", 1, -2),
    "keyctl": lambda: call(250, 0, -3, 1),
    "request_key": reaching(errno.ENOKEY, lambda: call(249, b"user", b"pi-gateway-none", 0, -2)),
    "userfaultfd": lambda: call(323, 1),
    "memfd_create": lambda: call(319, b"x", 1),
    "name_to_handle_at": reaching(errno.EOPNOTSUPP, lambda: call(303, -100, b"/", zeros(136, 128), zeros(8), 0)),
    "open_by_handle_at": reaching(errno.EINVAL, errno.ESTALE, lambda: call(304, -100, zeros(16), 0)),
    "mlock": lambda: call(151, 1),
    "personality": lambda: call(135, 0x0040000),
    "netlink": bound(opened, 16, socket.SOCK_RAW),
    "packet": bound(opened, 17, socket.SOCK_RAW),
    "vsock": bound(opened, 40, socket.SOCK_STREAM),
    "alg": bound(opened, 38, socket.SOCK_SEQPACKET),
    "raw-ip": bound(opened, socket.AF_INET, socket.SOCK_RAW, 1),
    "int-0x80": foreign_call,
    "x32": lambda: call(0x40000000 | 39),
    "mount": mounted,
    "open_tree-clone": lambda: call(428, -100, b"/usr", 1),
    "fsopen": lambda: call(430, b"tmpfs", 0),
    "pivot_root": reaching(errno.EINVAL, errno.EBUSY, lambda: call(155, b"/tmp", b"/tmp")),
    "chroot": lambda: call(161, b"/tmp"),
    "mknod-char": bound(made_node, 1, 1),
    "mknod-null": bound(made_node, 1, 3),
    "set-uid-bit": made_set_uid,
    "setuid": lambda: call(105, 0),
    "setgroups": lambda: call(116, 0, 0),
    "chown": lambda: call(92, tempfile.mkdtemp().encode(), 1, 1),
    "proc-sys": bound(written, "/proc/sys/kernel/hostname"),
    "kcore": bound(read, "/proc/kcore"),
    "kmsg": lambda: os.close(os.open("/proc/kmsg", os.O_RDONLY)),
    # SYSLOG_ACTION_READ_ALL takes nothing out of the log.
    "syslog": lambda: call(103, 3, zeros(64), 64),
    "hostname": lambda: call(170, socket.gethostname().encode(), len(socket.gethostname())),
    "adjtimex": lambda: call(159, zeros(208)),
    "core-limit": core_dump,
    "core-file": core_written,
    "init_module": reaching(errno.EFAULT, errno.ENOEXEC, lambda: call(175, 0, 0, b"")),
    "reboot": reaching(errno.EINVAL, lambda: call(169, 0, 0, 0, 0)),
    "swapon": reaching(errno.ENOENT, lambda: call(167, b"/nowhere", 0)),
}


def outcome(attempt):
    """Makes an attempt in a process of its own; says how it ended."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        try:
            attempt()
            word = "worked"
        except OSError as error:
            word = errno.errorcode.get(error.errno, str(error.errno))
        except ValueError:
            # What Python makes of a limit that may not be raised.
            word = "EPERM"
        os.write(writer, word.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        word = file.read()
    status = os.waitpid(pid, 0)[1]
    return word or f"signal-{os.WTERMSIG(status)}"


if __name__ == "__main__":
    for name, attempt in ATTEMPTS.items():
        print(f"{name}={outcome(attempt)}", flush=True)
