"""The module `kv` of examples/modules/src/kv.rs, as a Python process.

    PYTHONPATH=guest/python python3 examples/python/kv_module.py /run/outsock/kv.sock
"""

import collections
import errno
import os
import struct
import sys
import threading

from outsock_module import Module, NoSuchFunction, serve

PUT, GET, DELETE, COUNT = 1, 2, 3, 4
KEYS_MAX = 10_000


class Kv(Module):
    name, versions = "kv", (1, 2)

    def __init__(self):
        self.lock, self.stores = threading.Lock(), collections.defaultdict(dict)

    def call(self, caller, function, arguments):
        with self.lock:
            store = self.stores[caller.guest]
            if function == PUT:
                (length,) = struct.unpack_from("<H", arguments)
                key, value = arguments[2 : 2 + length].decode(), arguments[2 + length :]
                if key not in store and len(store) >= KEYS_MAX:
                    raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
                store[key] = value
                return b""
            if function == COUNT and caller.version >= 2:
                return struct.pack("<I", len(store))
            if function not in (GET, DELETE):
                raise NoSuchFunction
            if arguments.decode() not in store:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            if function == GET:
                return store[arguments.decode()]
            del store[arguments.decode()]
            return b""


serve(Kv(), sys.argv[1])
