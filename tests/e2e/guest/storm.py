"""Makes connects that a rule refuses, in eight threads: HOST PORT COUNT. Prints how they ended."""

import collections
import errno
import socket
import sys
import threading
import time

THREADS = 8

host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ends = collections.Counter()
lock = threading.Lock()


def some():
    for _ in range(count // THREADS):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            code = sock.connect_ex((host, port))
        with lock:
            ends[errno.errorcode.get(code, str(code))] += 1


threads = [threading.Thread(target=some) for _ in range(THREADS)]
begun = time.monotonic()
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
rate = count / (time.monotonic() - begun)
print(" ".join(f"{name} {number}" for name, number in sorted(ends.items())))
print(f"{rate:.0f} per second", file=sys.stderr)
