"""Connects under signals at 1 kHz, or while a thread rewrites the address.

    once.py storm HOST PORT ROUNDS          prints how many connects it began, and how many calls were interrupted
    once.py rewrite HOST PORT DENIED ROUNDS     prints how many connected and how many were refused by the rule
"""

import ctypes
import errno
import signal
import socket
import struct
import sys
import threading

libc = ctypes.CDLL(None, use_errno=True)


def packed(host, port):
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, socket.inet_aton(host))


def connect(sock, address):
    """connect(2) itself: Python's own starts again after a signal."""
    return 0 if libc.connect(sock.fileno(), address, 16) == 0 else ctypes.get_errno()


def echo(sock):
    sock.sendall(b"abc")
    assert sock.recv(3, socket.MSG_WAITALL) == b"abc"


def storm(host, port, rounds):
    interrupted, caught = 0, []
    signal.signal(signal.SIGALRM, lambda *_: caught.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    for number in range(rounds):
        # Half of them with SA_RESTART.
        signal.siginterrupt(signal.SIGALRM, number % 2 == 0)
        with socket.socket() as sock:
            code = connect(sock, packed(host, port))
            if code == errno.EINTR:
                assert number % 2 == 0, "EINTR with SA_RESTART"
                interrupted += 1
                # As with TCP the attempt goes on: another call waits for it, or finds it done.
                while (code := connect(sock, packed(host, port))) in (errno.EINTR, errno.EALREADY):
                    pass
                code = 0 if code == errno.EISCONN else code
            assert code == 0, errno.errorcode[code]
            echo(sock)
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert len(caught) > rounds // 10, "no storm"
    print(rounds, interrupted)


def rewrite(host, port, denied, rounds):
    good, bad = packed(host, port), packed(host, denied)
    address = ctypes.create_string_buffer(good, 16)
    stop = threading.Event()

    def flip():
        while not stop.is_set():
            for _ in range(100):
                ctypes.memmove(address, bad, 16)
                ctypes.memmove(address, good, 16)

    thread = threading.Thread(target=flip)
    thread.start()
    # Python's threads take turns: often enough for every call to meet another moment.
    sys.setswitchinterval(1e-5)
    seen = {0: 0, errno.EACCES: 0}
    for _ in range(rounds):
        with socket.socket() as sock:
            code = connect(sock, address)
            seen[code] += 1
            if code == 0:
                assert sock.getpeername() == (host, port), sock.getpeername()
                echo(sock)
    stop.set()
    thread.join()
    print(seen[0], seen[errno.EACCES])


if sys.argv[1] == "storm":
    storm(sys.argv[2], *map(int, sys.argv[3:]))
else:
    rewrite(sys.argv[2], *map(int, sys.argv[3:]))
