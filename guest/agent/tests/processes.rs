//! Whose calls they are: programs with filters, networks, users, signals and threads of their own.
#![allow(clippy::unwrap_used)]

mod lab;
mod stand_in;

use lab::{CONNECT, Lab, eventually, silent_server};
use stand_in::has_python;

/// A BPF filter as programs install their own, in Python.
const OWN_FILTER: &str = "
import ctypes, errno, os, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
def install(code, flags):
    program = ctypes.create_string_buffer(struct.pack('HBBI', 0x20, 0, 0, 0) + code)
    header = struct.pack('HxxxxxxQ', len(program.raw) // 8, ctypes.addressof(program))
    ctypes.set_errno(0)
    return libc.syscall(317, 1, flags, header), ctypes.get_errno(), program
allow = struct.pack('HBBI', 6, 0, 0, 0x7fff0000)
";

#[test]
fn a_program_with_a_filter_of_its_own_is_served() {
    if !has_python() {
        return;
    }
    let lab = Lab::new();
    let (_server, port) = silent_server();
    // It refuses itself getppid(); all else is as before.
    let script = format!(
        "{CONNECT}{OWN_FILTER}
libc.prctl(38, 1, 0, 0, 0)
own = struct.pack('HBBI', 0x15, 0, 1, 110) + struct.pack('HBBI', 6, 0, 0, 0x00050000 | errno.EPERM)
result = install(own + allow, 0)
assert result[0] == 0, result
assert libc.getppid() == -1
s, code = connect('198.51.100.1', {port})
assert code == 'ok' and s.getpeername()[0] == '198.51.100.1', code
"
    );
    let output = lab.outsock(&["python3", "-c", &script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_program_that_wants_a_listener_of_its_own_is_told_why_not() {
    if !has_python() {
        return;
    }
    let lab = Lab::new();
    let script = format!(
        "{OWN_FILTER}
libc.prctl(38, 1, 0, 0, 0)
result = install(allow, 8)
assert result[:2] == (-1, errno.EBUSY), result
"
    );
    let output = lab.outsock(&["python3", "-c", &script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("a seccomp listener of its own") && text.contains("python3"), "{text}");
}

#[test]
fn other_networks_are_left_alone() {
    if !has_python() {
        return;
    }
    let lab = Lab::new();
    let (_server, port) = silent_server();
    let script = format!(
        "{CONNECT}
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
here = socket.socket()
if libc.unshare(0x40000000) != 0:
    print('NOT TESTED: no leave to make a network namespace')
    sys.exit(0)
assert connect('198.51.100.1', {port})[1] == 'ENETUNREACH'
assert here.connect_ex(('198.51.100.1', {port})) == 0
assert here.getpeername()[0] == '198.51.100.1'
"
    );
    let output = lab.outsock(&["python3", "-c", &script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(lab.gateway.counters().connects <= 1);
}

#[test]
fn a_program_that_gives_up_its_user_is_served_and_root_keeps_its_privileges() {
    if !has_python() {
        return;
    }
    let lab = Lab::new();
    let (_server, port) = silent_server();
    let script = format!(
        "{CONNECT}
import os
status = dict(line.split(':', 1) for line in open('/proc/self/status'))
if os.getuid() != 0:
    assert status['NoNewPrivs'].strip() == '1'
    print('NOT TESTED: not root')
    sys.exit(0)
# Programs below that are set-user-id keep their privileges.
assert status['NoNewPrivs'].strip() == '0'
os.setgid(65534)
os.setuid(65534)
s, code = connect('198.51.100.1', {port})
assert code == 'ok' and s.getpeername()[0] == '198.51.100.1', code
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
"
    );
    let output = lab.outsock(&["python3", "-c", &script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    print!("{}", String::from_utf8_lossy(&output.stdout));
}

/// A signal every millisecond, with and without SA_RESTART: each connect() reaches the host once, each
/// connection that it made is the program's.
#[test]
fn signals_never_make_a_second_connection() {
    if !has_python() {
        return;
    }
    for restart in ["False", "True"] {
        let lab = Lab::new();
        let (server, port) = silent_server();
        std::thread::spawn(move || server.incoming().for_each(drop));
        let script = format!(
            "{CONNECT}
import ctypes, signal, struct
libc = ctypes.CDLL(None, use_errno=True)
signal.signal(signal.SIGALRM, lambda *_: None)
signal.siginterrupt(signal.SIGALRM, not {restart})
address = struct.pack('=H', 2) + struct.pack('!H4s8x', {port}, socket.inet_aton('198.51.100.1'))
def once(s):
    ctypes.set_errno(0)
    return 0 if libc.connect(s.fileno(), address, 16) == 0 else ctypes.get_errno()
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
for _ in range(300):
    s = socket.socket()
    code = once(s)
    while code in (errno.EINTR, errno.EALREADY):
        code = once(s)
    assert code in (0, errno.EISCONN), code
    s.close()
signal.setitimer(signal.ITIMER_REAL, 0)
"
        );
        let output = lab.outsock(&["python3", "-c", &script]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let counters = lab.gateway.counters();
        assert_eq!(counters.connects, 300, "restart: {restart}");
        eventually("the end of all connections", || {
            let counters = lab.gateway.counters();
            counters.opened == 300 && counters.closed == 300
        });
    }
}

#[test]
fn a_rewritten_address_never_changes_where_the_connection_goes() {
    if !has_python() {
        return;
    }
    let lab = Lab::new();
    let (server, port) = silent_server();
    std::thread::spawn(move || server.incoming().for_each(drop));
    // One thread flips the address between an allowed and a refused one while the other connects:
    // each connect must end as one of the two ends, and be named as what was dialled.
    let script = format!(
        "{CONNECT}
import ctypes, struct, threading
libc = ctypes.CDLL(None, use_errno=True)
def packed(host): return struct.pack('=H', 2) + struct.pack('!H4s8x', {port}, socket.inet_aton(host))
good, bad = packed('198.51.100.1'), packed('198.51.100.4')
buffer = ctypes.create_string_buffer(good, 16)
stop = False
def flip():
    while not stop:
        ctypes.memmove(buffer, bad, 16)
        ctypes.memmove(buffer, good, 16)
thread = threading.Thread(target=flip, daemon=True)
thread.start()
seen = set()
for _ in range(500):
    s = socket.socket()
    code = 0 if libc.connect(s.fileno(), buffer, 16) == 0 else ctypes.get_errno()
    seen.add(code)
    if code == 0:
        assert s.getpeername()[0] == '198.51.100.1', s.getpeername()
    s.close()
stop = True
thread.join()
# A starved stand-in counts as lost (ENETUNREACH): that is a refusal too.
assert seen <= {{0, errno.EHOSTUNREACH, errno.ENETUNREACH}}, seen
assert 0 in seen or errno.EHOSTUNREACH in seen, seen
"
    );
    let output = lab.outsock(&["python3", "-c", &script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
