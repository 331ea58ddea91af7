"""Job control: a shell on a terminal starts, stops, continues and interrupts an outsourced command.

    terminal.py OUTSOCK GATEWAY-OPTION
"""

import os
import pty
import select
import sys
import time

outsock, gateway = sys.argv[1:]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp("bash", ["bash", "--norc", "--noediting", "-i"])
seen = b""


def until(text):
    """Waits for output. What is typed is echoed, so texts must differ from it."""
    global seen
    deadline = time.time() + 10
    while text not in seen:
        assert time.time() < deadline, seen
        if select.select([terminal], [], [], 0.1)[0]:
            seen += os.read(terminal, 4096)
    seen = seen.split(text, 1)[1]


def enter(text):
    os.write(terminal, text)


command = f"'{outsock}' run --gateway {gateway} sh -c 'echo be\"\"gun; sleep 60'\n"
enter(b"PS1='' PS2=''; " + command.encode())
until(b"begun")
enter(b"\x1a")
until(b"Stopped")
enter(b"fg\n")
until(b"sleep 60")
# Nothing is printed when it runs again.
time.sleep(0.3)
enter(b"\x03")
time.sleep(0.3)
enter(b"echo status=$?\n")
until(b"status=130")
