"""A server that knows nothing of TLS: plain.py PORT

A line "name" is answered by the client's address, "GET ..." by a page with it; after "bye" it closes its half.
Says of each client how it ended.
"""

import errno
import socket
import sys
import threading


def end_of(near):
    """What a vsock socket's end was: its agent answers SO_ERROR with a reset, if it was one."""
    error = near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return errno.errorcode[error] if error else "end"


def serve(near, client):
    name = "client %s:%s" % client
    end = "end"
    try:
        for line in near.makefile("rb"):
            if line == b"name\n":
                near.sendall(name.encode() + b"\n")
            elif line == b"bye\n":
                near.shutdown(socket.SHUT_WR)
            elif line == b"\r\n":
                page = b"hello %s:%d\n" % (client[0].encode(), client[1])
                head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                near.sendall(head % len(page) + page)
                near.shutdown(socket.SHUT_WR)
        end = end_of(near)
    except OSError as error:
        end = errno.errorcode[error.errno]
    print(f"{name}: {end}", flush=True)
    near.close()


listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("0.0.0.0", int(sys.argv[1])))
listener.listen()
while True:
    threading.Thread(target=serve, args=listener.accept()).start()
