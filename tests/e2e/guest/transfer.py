"""Moves the pattern in every way that a program can write or read, and compares digests with the host.

    transfer.py up METHOD HOST PORT SIZE...    METHOD: send sendmsg sendfile splice zerocopy
    transfer.py down METHOD HOST PORT SIZE...  METHOD: recv recv_into splice
    transfer.py half HOST PORT SIZE            writes after the host has ended its half
    transfer.py read HOST PORT                 reads for as long as something comes, says how it ended

SIZE is that of one write. Exit status 77: this kernel or this socket lacks what METHOD needs.
"""

import errno
import hashlib
import os
import select
import socket
import sys
import tempfile
import time

PERIOD = bytes((i * i + i // 251) & 255 for i in range(65521))
SO_ZEROCOPY, MSG_ZEROCOPY = 60, 0x4000000
TOTAL_MAX, WRITES_MAX = 4 << 20, 256


def pattern(length):
    return (PERIOD * (length // len(PERIOD) + 1))[:length]


def connect(host, port):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(60)
    sock.connect((host, int(port)))
    return sock


def pieces(size):
    """How many writes of `size` bytes one connection carries."""
    return max(1, min(WRITES_MAX, TOTAL_MAX // size))


def send_all(sock, data, size):
    for start in range(0, len(data), size):
        sock.sendall(data[start:start + size])


def sendmsg_all(sock, data, size):
    for start in range(0, len(data), size):
        piece = memoryview(data)[start:start + size]
        while piece:
            middle = len(piece) // 2
            piece = piece[sock.sendmsg([piece[:middle], piece[middle:]]):]


def sendfile_all(sock, data, size):
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        sock.setblocking(True)
        done = 0
        while done < len(data):
            done += os.sendfile(sock.fileno(), file.fileno(), done, min(size, len(data) - done))


def splice_all(sock, data, size):
    sock.setblocking(True)
    reader, writer = os.pipe()
    for start in range(0, len(data), size):
        piece = data[start:start + size]
        while piece:
            # A pipe holds 64 KiB by default: no more at once, or the write would block.
            count = os.write(writer, piece[:65536])
            piece = piece[count:]
            while count:
                count -= os.splice(reader, sock.fileno(), count)


def zerocopy_all(sock, data, size):
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    except OSError as error:
        print("no zero copy on this socket:", error)
        sys.exit(77)
    sent = freed = 0
    for start in range(0, len(data), size):
        piece = memoryview(data)[start:start + size]
        while piece:
            try:
                piece = piece[sock.send(piece, MSG_ZEROCOPY):]
                sent += 1
            except OSError as error:
                # Too many notifications wait to be taken: TCP says the first, vsock the second.
                if error.errno not in (errno.ENOBUFS, errno.ENOMEM) or freed == sent:
                    raise
                freed += completions(sock, 1)
    completions(sock, sent - freed)


def completions(sock, wanted):
    """Waits until the kernel has said of `wanted` more writes that their pages are free again."""
    deadline = time.monotonic() + 30
    freed = 0
    while freed < wanted:
        assert time.monotonic() < deadline, f"{freed} of {wanted} zero copy writes completed"
        poll = select.poll()
        poll.register(sock, 0)
        poll.poll(1000)
        try:
            _, ancillary, _, _ = sock.recvmsg(1, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
        except BlockingIOError:
            continue
        for _, _, data in ancillary:
            # struct sock_extended_err: errno, origin, type, code, pad, info, data
            low, high = int.from_bytes(data[8:12], "little"), int.from_bytes(data[12:16], "little")
            freed += high - low + 1
    return freed


def up(method, host, port, sizes):
    ways = {"send": send_all, "sendmsg": sendmsg_all, "sendfile": sendfile_all,
            "splice": splice_all, "zerocopy": zerocopy_all}
    for size in sizes:
        data = pattern(size * pieces(size))
        with connect(host, port) as sock:
            ways[method](sock, data, size)
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := sock.recv(4096):
                answer += piece
        expected = f"{len(data)} {hashlib.sha256(data).hexdigest()}"
        assert answer.decode().strip() == expected, f"{size}: host saw {answer}, sent {expected}"
    print(f"up {method}: {len(sizes)} sizes, every digest equal")


def receive(sock, size):
    while piece := sock.recv(size):
        yield piece


def receive_into(sock, size):
    buffer = bytearray(size)
    while count := sock.recv_into(buffer):
        yield bytes(buffer[:count])


def receive_spliced(sock, size):
    sock.setblocking(True)
    reader, writer = os.pipe()
    while count := os.splice(sock.fileno(), writer, min(size, 65536)):
        while count:
            piece = os.read(reader, count)
            count -= len(piece)
            yield piece


def down(method, host, port, sizes):
    ways = {"recv": receive, "recv_into": receive_into, "splice": receive_spliced}
    for size in sizes:
        length = size * pieces(size)
        with connect(host, port) as sock:
            sock.sendall(f"{length}\n".encode())
            hashed, total = hashlib.sha256(), 0
            for piece in ways[method](sock, size):
                hashed.update(piece)
                total += len(piece)
        assert total == length, f"{size}: {total} of {length} bytes"
        assert hashed.digest() == hashlib.sha256(pattern(length)).digest(), f"{size}: wrong bytes"
    print(f"down {method}: {len(sizes)} sizes, every digest equal")


def half(host, port, size):
    with connect(host, port) as sock:
        said = b""
        while piece := sock.recv(100):
            said += piece
        assert said == b"that is all\n", said
        # The host's half has ended; ours has not.
        sock.sendall(pattern(int(size)))
    print("half: wrote after the end of the other half")


def read(host, port):
    sock = connect(host, port)
    sock.settimeout(None)
    print("reading", flush=True)
    try:
        while sock.recv(65536):
            pass
    except OSError as error:
        print("ended:", errno.errorcode[error.errno])
    else:
        print("ended: EOF")


def main():
    command, *arguments = sys.argv[1:]
    if command in ("up", "down"):
        method, host, port, *sizes = arguments
        globals()[command](method, host, port, [int(size) for size in sizes])
    else:
        globals()[command](*arguments)


main()
