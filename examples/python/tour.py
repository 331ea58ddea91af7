"""A tour of VM RPC for guests, in Python. The same as examples/modules/src/bin/tour.rs.

    PYTHONPATH=guest/python python3 examples/python/tour.py
"""

import concurrent.futures
import errno
import os
import socket
import struct
import sys

import outsock_rpc

PUT, GET, DELETE = 1, 2, 3
PATIENCE = 60
HOUR_MS = 3_600_000


def client():
    """A Unix socket that leads to the gateway, for tests; a real guest needs only connect()."""
    path = os.environ.get("OUTSOCK_RPC_SOCKET")
    if path is None:
        return outsock_rpc.connect()
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(path)
    return outsock_rpc.connect(stream.detach())


def want(what, name, shown, call, *arguments):
    try:
        call(*arguments)
    except outsock_rpc.RpcError as error:
        if error.name != name:
            raise
        print(f"{what}: {shown}")
    else:
        sys.exit(f"tour: {what}: no error")


def binding(gateway):
    want("bind nothing", "NO_SUCH_MODULE", "NoSuchModule", gateway.bind_module, "nothing", 1, 9)
    want("bind kv", "UNSUPPORTED_VERSION", "UnsupportedVersion", gateway.bind_module, "kv", 90, 99)
    want("bind secret", "NOT_ALLOWED", "NotAllowed", gateway.bind_module, "secret", 1, 9)
    module = gateway.bind_module("kv", 1, 9)
    print(f"bind kv: version {module.version}")
    module.unbind_module()
    print("unbind kv")


def calls(gateway):
    kv = gateway.bind_module("kv", 1, 2)
    for size in (0, 4096, 60_000):
        kv.perform_rpc(PUT, outsock_rpc.text("key") + b"x" * size)
        assert kv.perform_rpc(GET, b"key") == b"x" * size
        print(f"put and get {size} bytes")
    kv.perform_rpc(DELETE, b"key")
    try:
        kv.perform_rpc(GET, b"key")
    except OSError as error:
        print(f"get: {errno.errorcode[error.errno]}")
    want("call 99", "NO_SUCH_FUNCTION", "NoSuchFunction", kv.perform_rpc, 99)

    def one(number):
        key = f"key {number}"
        kv.perform_rpc(PUT, outsock_rpc.text(key) + bytes([number]))
        return kv.perform_rpc(GET, key.encode()) == bytes([number])

    with concurrent.futures.ThreadPoolExecutor(64) as threads:
        assert all(threads.map(one, range(64)))
    print("64 threads at once")
    kv.unbind_module()


def events(gateway):
    ticker = gateway.bind_module("ticker", 1)
    hour = struct.pack("<I", HOUR_MS)
    queue = ticker.open_ev_queue(ticker.perform_rpc(1, hour))
    print("events travel through", "shared memory" if queue.is_shared else "stream", file=sys.stderr)
    for tick in range(1000):
        assert queue.get_event(PATIENCE) == struct.pack("<Q", tick)
        queue.put_event(hour)
    print("1000 events each way")
    queue.get_event(PATIENCE)
    try:
        sys.exit(f"tour: a tick too many: {queue.get_event()}")
    except outsock_rpc.RpcError as error:
        assert error.name == "EMPTY"
    print("then the queue is empty")
    want("40000 bytes", "EVENT_TOO_LARGE", "TooLarge", queue.put_event, bytes(40_000))
    ticker.unbind_module()
    want("after unbind", "QUEUE_DELETED", "Deleted", queue.get_event, PATIENCE)
    queue.close()


with client() as gateway:
    binding(gateway)
    calls(gateway)
    events(gateway)
