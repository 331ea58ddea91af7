"""A far server that says how connections end.

    ends.py                 prints its port on loopback, serves until its standard input ends
    ends.py ADDRESS:PORT    serves there until it is killed

The first line of a connection says what it is for:

    reset            it is reset at once
    peer             the reply says who the peer is: ADDRESS PORT
    watch NAME       reads to the end and remembers how it came
    slow NAME RATE   likewise, at RATE bytes a second through a small window
    ask NAME         the reply says how NAME ended: "end BYTES SHA256" or "reset BYTES SHA256"
"""

import hashlib
import os
import socket
import struct
import sys
import threading
import time

ended = {}
changed = threading.Condition()


def read_to_the_end(sock, name, rate):
    count, digest = 0, hashlib.sha256()
    try:
        while part := sock.recv(min(65536, rate // 10) if rate else 65536):
            count += len(part)
            digest.update(part)
            if rate:
                time.sleep(len(part) / rate)
        how = "end"
    except ConnectionResetError:
        how = "reset"
    with changed:
        ended[name] = f"{how} {count} {digest.hexdigest()}"
        changed.notify_all()


def line_of(sock):
    line = b""
    while not line.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte:
            break
        line += byte
    return line.decode().split()


def serve(sock, peer):
    with sock:
        words = line_of(sock)
        if not words:
            return
        if words[0] == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif words[0] == "peer":
            sock.sendall(f"{peer[0]} {peer[1]}\n".encode())
        elif words[0] == "watch":
            read_to_the_end(sock, words[1], 0)
        elif words[0] == "slow":
            read_to_the_end(sock, words[1], int(words[2]))
        elif words[0] == "ask":
            with changed:
                changed.wait_for(lambda: words[1] in ended, timeout=150)
                sock.sendall((ended.get(words[1], "unknown") + "\n").encode())


def accept(listener):
    while True:
        sock, peer = listener.accept()
        threading.Thread(target=serve, args=(sock, peer), daemon=True).start()


def main():
    listener = socket.socket()
    # Accepted sockets inherit it: what is not read stays with the sender.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    host, _, port = (sys.argv[1:] or ["127.0.0.1:0"])[0].rpartition(":")
    listener.bind((host, int(port)))
    listener.listen(128)
    if len(sys.argv) > 1:
        accept(listener)
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
    while os.read(0, 4096):
        pass


main()
