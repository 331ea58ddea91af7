"""Pages of an event queue whose program is killed while its gateway stands still.

Starts a program that has ticks of `ticker` come through shared memory, says "ready", and at each line on
its standard input goes a step further: "kill" kills the program, shows for a second that none of its
pages has been given back, and fills the memory that is free; "check" waits until the pages have been given
back, and looks whether anybody wrote to memory that was not his.
"""

import mmap
import os
import signal
import struct
import subprocess
import sys
import time

PAGE = 4096
KEEPER = "outsock-pages"
FILL = bytes([0xA5]) * PAGE


def frames():
    """The page frames of this process's queues."""
    found = []
    with open("/proc/self/maps") as maps, open("/proc/self/pagemap", "rb") as pagemap:
        for line in maps:
            if "memfd:outsock-queue" in line:
                first, last = (int(number, 16) // PAGE for number in line.split()[0].split("-"))
                pagemap.seek(first * 8)
                entries = struct.iter_unpack("=Q", pagemap.read((last - first) * 8))
                found += [entry & (1 << 55) - 1 for (entry,) in entries]
    return found


def hold():
    import outsock_rpc

    module = outsock_rpc.connect().bind_module("ticker", 1)
    queue = module.open_ev_queue(module.perform_rpc(1, struct.pack("<I", 1)))
    assert queue.is_shared, "the queue is not in shared memory"
    queue.get_event(30)
    print(*frames(), flush=True)
    while True:
        queue.get_event(30)


def users(numbers):
    """How often each page is mapped."""
    with open("/proc/kpagecount", "rb") as counts:
        return [struct.unpack("=Q", os.pread(counts.fileno(), 8, number * 8))[0] for number in numbers]


def keepers():
    count = 0
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{process}/comm") as comm:
                count += comm.read().strip() == KEEPER
        except OSError:
            pass
    return count


def fill():
    """Takes most of what is free. Pages that were given back would be among them."""
    with open("/proc/meminfo") as info:
        free = next(int(line.split()[1]) * 1024 for line in info if line.startswith("MemFree"))
    memory = mmap.mmap(-1, max(PAGE, (free * 7 // 10) // PAGE * PAGE))
    for page in range(0, len(memory), PAGE):
        memory[page : page + PAGE] = FILL
    return memory


def step(expected):
    line = sys.stdin.readline().strip()
    assert line == expected, line


def main():
    holder = subprocess.Popen([sys.executable, __file__, "hold"], stdout=subprocess.PIPE)
    numbers = [int(number) for number in holder.stdout.readline().split()]
    assert numbers and all(numbers), numbers
    assert keepers() == 1, keepers()
    print("ready", flush=True)
    step("kill")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    memory = fill()
    begun = time.monotonic()
    while time.monotonic() - begun < 1:
        assert all(users(numbers)), "pages were given back while the gateway could write to them"
    print(f"held {len(numbers)} pages", flush=True)
    step("check")
    while keepers():
        time.sleep(0.01)
    for page in range(0, len(memory), PAGE):
        assert memory[page : page + PAGE] == FILL, f"somebody wrote to page {page // PAGE}"
    print("intact", flush=True)


hold() if sys.argv[1:] == ["hold"] else main()
