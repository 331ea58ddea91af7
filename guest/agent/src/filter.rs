//! The filter: which system calls are trapped, as one table, and its translation to classic BPF.
//!
//! in: [`TRAPS`]; out: a program for `sys::seccomp::install`. Runs in the kernel, in the calling
//! thread, before every system call; calls that the table does not name are allowed without looking
//! at their arguments, which the kernel caches. Kept: arguments are only looked at to keep unrelated
//! callers untouched (cheap); what is decided on is read again by the supervisor. To intercept
//! another call, add a row here and an arm in `supervisor::handle`.

use crate::ioctl::{self, Answered};
use crate::sys::seccomp::Instruction;

/// The calls that the supervisor handles, one family per module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Connect,
    Listen,
    Accept,
    /// accept4(): with flags.
    AcceptWith,
    Shutdown,
    SocketName,
    PeerName,
    GetOption,
    SetOption,
    Duplicate,
    EpollCreate,
    Bind,
    SendTo,
    SendMessage,
    /// A seccomp listener of the program's own, which the kernel will refuse.
    SecondListener,
    Ioctl,
    /// 32-bit x86's one call for all of them; the first argument says which.
    Multiplexed,
}

/// What happens to a call that a row names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The supervisor gets it.
    Ask(Call),
    /// It fails at once with this errno.
    Refuse(i32),
}

/// A test of the low 32 bits of an argument: all that the kernel uses of an int.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Test {
    Is(usize, u32),
    IsNot(usize, u32),
    AtLeast(usize, u32),
    HasBit(usize, u32),
}

/// One row: a call by its number on x86-64 and i386, the tests that must all hold, and the verdict.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trap {
    pub(crate) x86_64: Option<u32>,
    pub(crate) i386: Option<u32>,
    pub(crate) tests: &'static [Test],
    pub(crate) verdict: Verdict,
}

const fn row(x86_64: u32, i386: u32, tests: &'static [Test], verdict: Verdict) -> Trap {
    Trap { x86_64: Some(x86_64), i386: Some(i386), tests, verdict }
}

const SOL_SOCKET: u32 = libc::SOL_SOCKET.cast_unsigned();
const SO_ERROR: u32 = libc::SO_ERROR.cast_unsigned();
const SO_DOMAIN: u32 = libc::SO_DOMAIN.cast_unsigned();
const SO_PROTOCOL: u32 = libc::SO_PROTOCOL.cast_unsigned();
const SO_RCVBUF: u32 = libc::SO_RCVBUF.cast_unsigned();
const SO_SNDBUF: u32 = libc::SO_SNDBUF.cast_unsigned();
const SO_REUSEPORT: u32 = libc::SO_REUSEPORT.cast_unsigned();
const MSG_FASTOPEN: u32 = libc::MSG_FASTOPEN.cast_unsigned();
const SO_COOKIE: u32 = libc::SO_COOKIE.cast_unsigned();
/// Not in libc: `include/uapi/asm-generic/socket.h`.
const SO_PEERNAME: u32 = 28;
const SO_TXREHASH: u32 = 74;
const F_DUPFD: u32 = libc::F_DUPFD.cast_unsigned();
const F_DUPFD_CLOEXEC: u32 = libc::F_DUPFD_CLOEXEC.cast_unsigned();

const GET: Verdict = Verdict::Ask(Call::GetOption);
const SET: Verdict = Verdict::Ask(Call::SetOption);
const DUPLICATE: Verdict = Verdict::Ask(Call::Duplicate);

/// An address that may be one of the internet families'; a Unix one is usually 110 bytes long.
const INTERNET_BIND: &[Test] = &[Test::AtLeast(2, 16), Test::IsNot(2, 110)];
/// `seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, ...)`.
const SECOND_LISTENER: &[Test] = &[Test::Is(0, 1), Test::HasBit(1, 1 << 3)];
const INTERNET_SEND: &[Test] = &[Test::AtLeast(5, 16), Test::IsNot(5, 110)];

/// The table.
///
/// * connect: an internet address is at least 16 bytes, and AF_UNSPEC alone is 2; most programs
///   pass 110 for a Unix address, which is never ours.
/// * setsockopt: what no program ever sets need not be looked for at every connect. Levels that TCP does not
///   have are refused in its words, and vsock's own level is none of a program's that thinks it has TCP.
/// * FIONREAD and SIOCOUTQ are asked of pipes and terminals too: trapped only where this kernel's
///   vsock has no answer ([`program`]).
/// * duplicates: copies from and onto the standard streams are what shells make all day, and the
///   supervisor looks at those three itself at connect.
/// * sendto: musl and others ask nameservers without connecting.
/// * MSG_FASTOPEN means "connect and send": programs fall back when it is not supported.
/// * io_uring makes calls that no filter sees: programs fall back when it does not exist.
pub(crate) const TRAPS: &[Trap] = &[
    row(42, 362, &[Test::AtLeast(2, 16), Test::IsNot(2, 110)], Verdict::Ask(Call::Connect)),
    row(42, 362, &[Test::Is(2, 2)], Verdict::Ask(Call::Connect)),
    row(50, 363, &[], Verdict::Ask(Call::Listen)),
    Trap { x86_64: Some(43), i386: None, tests: &[], verdict: Verdict::Ask(Call::Accept) },
    row(288, 364, &[], Verdict::Ask(Call::AcceptWith)),
    row(48, 373, &[], Verdict::Ask(Call::Shutdown)),
    row(51, 367, &[], Verdict::Ask(Call::SocketName)),
    row(52, 368, &[], Verdict::Ask(Call::PeerName)),
    row(55, 365, &[Test::IsNot(1, SOL_SOCKET)], GET),
    row(55, 365, &[Test::Is(1, SOL_SOCKET), Test::Is(2, SO_ERROR)], GET),
    row(55, 365, &[Test::Is(1, SOL_SOCKET), Test::Is(2, SO_DOMAIN)], GET),
    row(55, 365, &[Test::Is(1, SOL_SOCKET), Test::Is(2, SO_PROTOCOL)], GET),
    row(55, 365, &[Test::Is(1, SOL_SOCKET), Test::Is(2, SO_RCVBUF)], GET),
    row(55, 365, &[Test::Is(1, SOL_SOCKET), Test::Is(2, SO_SNDBUF)], GET),
    row(55, 365, &[Test::Is(1, SOL_SOCKET), Test::Is(2, SO_REUSEPORT)], GET),
    row(55, 365, &[Test::Is(1, SOL_SOCKET), Test::Is(2, SO_COOKIE)], GET),
    row(55, 365, &[Test::Is(1, SOL_SOCKET), Test::Is(2, SO_PEERNAME)], GET),
    row(55, 365, &[Test::Is(1, SOL_SOCKET), Test::Is(2, SO_TXREHASH)], GET),
    row(54, 366, &[], SET),
    row(16, 54, &[Test::Is(1, ioctl::AT_MARK)], Verdict::Ask(Call::Ioctl)),
    row(16, 54, &[Test::Is(1, ioctl::IN_QUEUE)], Verdict::Ask(Call::Ioctl)),
    row(16, 54, &[Test::Is(1, ioctl::OUT_QUEUE)], Verdict::Ask(Call::Ioctl)),
    row(32, 41, &[Test::AtLeast(0, 3)], DUPLICATE),
    row(33, 63, &[Test::AtLeast(0, 3), Test::AtLeast(1, 3)], DUPLICATE),
    row(292, 330, &[Test::AtLeast(0, 3), Test::AtLeast(1, 3)], DUPLICATE),
    row(72, 55, &[Test::AtLeast(0, 3), Test::Is(1, F_DUPFD)], DUPLICATE),
    row(72, 55, &[Test::AtLeast(0, 3), Test::Is(1, F_DUPFD_CLOEXEC)], DUPLICATE),
    Trap {
        x86_64: None,
        i386: Some(221), // fcntl64
        tests: &[Test::AtLeast(0, 3), Test::Is(1, F_DUPFD)],
        verdict: DUPLICATE,
    },
    Trap {
        x86_64: None,
        i386: Some(221),
        tests: &[Test::AtLeast(0, 3), Test::Is(1, F_DUPFD_CLOEXEC)],
        verdict: DUPLICATE,
    },
    row(213, 254, &[], Verdict::Ask(Call::EpollCreate)),
    row(291, 329, &[], Verdict::Ask(Call::EpollCreate)),
    row(317, 354, SECOND_LISTENER, Verdict::Ask(Call::SecondListener)),
    row(49, 361, INTERNET_BIND, Verdict::Ask(Call::Bind)),
    row(44, 369, &[Test::HasBit(3, MSG_FASTOPEN)], Verdict::Ask(Call::SendTo)),
    row(44, 369, INTERNET_SEND, Verdict::Ask(Call::SendTo)),
    Trap {
        x86_64: Some(46),
        i386: None,
        tests: &[Test::HasBit(2, MSG_FASTOPEN)],
        verdict: Verdict::Ask(Call::SendMessage),
    },
    Trap {
        x86_64: None,
        i386: Some(370),
        tests: &[Test::HasBit(2, MSG_FASTOPEN)],
        verdict: Verdict::Refuse(libc::EOPNOTSUPP),
    },
    row(307, 345, &[Test::HasBit(3, MSG_FASTOPEN)], Verdict::Refuse(libc::EOPNOTSUPP)),
    row(425, 425, &[], Verdict::Refuse(libc::ENOSYS)),
    Trap {
        x86_64: None,
        i386: Some(102),
        tests: &[Test::AtLeast(0, 3)],
        verdict: Verdict::Ask(Call::Multiplexed),
    },
];

/// `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_I386`.
pub(crate) const ARCH_X86_64: u32 = 0xc000_003e;
pub(crate) const ARCH_I386: u32 = 0x4000_0003;
/// x32 calls come with the architecture of x86-64 and this bit. No distribution turns x32 on; where
/// it is on, its calls fail cleanly instead of passing by unseen.
const X32_BIT: u32 = 0x4000_0000;

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const JUMP_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const RETURN_ALLOW: u32 = 0x7fff_0000;
const RETURN_NOTIFY: u32 = 0x7fc0_0000;
const RETURN_ERRNO: u32 = 0x0005_0000;

/// The call that a number means, among those that the table asks about.
pub(crate) fn call_of(arch: u32, number: u32) -> Option<Call> {
    TRAPS.iter().find_map(|trap| {
        let here = if arch == ARCH_I386 { trap.i386 } else { trap.x86_64 };
        match trap.verdict {
            Verdict::Ask(call) if here == Some(number) => Some(call),
            Verdict::Ask(_) | Verdict::Refuse(_) => None,
        }
    })
}

/// The table as a BPF program, without the traps for what the kernel's vsock answers itself.
pub(crate) fn program(answered: Answered) -> Vec<Instruction> {
    let native = one_arch(answered, |trap| trap.x86_64);
    let compat = one_arch(answered, |trap| trap.i386);
    let mut program = vec![load(OFFSET_ARCH)];
    program.extend(skip_unless(JUMP_EQUAL, ARCH_I386, &compat));
    program.push(jump(JUMP_EQUAL, ARCH_X86_64, 1, 0));
    program.push(give(RETURN_ALLOW));
    program.push(load(OFFSET_NUMBER));
    program.push(jump(JUMP_AT_LEAST, X32_BIT, 0, 1));
    program.push(give(RETURN_ERRNO | libc::ENOSYS.cast_unsigned()));
    program.extend(native);
    program
}

fn is_needless(trap: &Trap, answered: Answered) -> bool {
    let asks = |request| {
        trap.tests.iter().any(|test| matches!(test, Test::Is(1, value) if *value == request))
    };
    trap.verdict == Verdict::Ask(Call::Ioctl)
        && (answered.in_queue && asks(ioctl::IN_QUEUE)
            || answered.out_queue && asks(ioctl::OUT_QUEUE))
}

/// Everything for one architecture; always returns.
fn one_arch(answered: Answered, number_of: impl Fn(&Trap) -> Option<u32>) -> Vec<Instruction> {
    let mut program = vec![load(OFFSET_NUMBER)];
    let mut done: Vec<u32> = Vec::new();
    for number in TRAPS.iter().filter_map(&number_of) {
        if done.contains(&number) {
            continue;
        }
        done.push(number);
        let is_row = |trap: &&Trap| number_of(trap) == Some(number) && !is_needless(trap, answered);
        let mut block: Vec<_> = TRAPS.iter().filter(is_row).flat_map(one_row).collect();
        block.push(give(RETURN_ALLOW));
        program.extend(skip_unless(JUMP_EQUAL, number, &block));
    }
    program.push(give(RETURN_ALLOW));
    program
}

/// One row: returns its verdict when all tests hold, else falls through its end.
fn one_row(trap: &Trap) -> Vec<Instruction> {
    let verdict = match trap.verdict {
        Verdict::Ask(_) => RETURN_NOTIFY,
        Verdict::Refuse(errno) => RETURN_ERRNO | errno.cast_unsigned(),
    };
    let mut row = vec![give(verdict)];
    for test in trap.tests.iter().rev() {
        let over = length_u8(&row);
        let (argument, check) = match *test {
            Test::Is(argument, value) => (argument, jump(JUMP_EQUAL, value, 0, over)),
            Test::IsNot(argument, value) => (argument, jump(JUMP_EQUAL, value, over, 0)),
            Test::AtLeast(argument, value) => (argument, jump(JUMP_AT_LEAST, value, 0, over)),
            Test::HasBit(argument, value) => (argument, jump(JUMP_BIT, value, 0, over)),
        };
        let argument = u32::try_from(argument).unwrap_or(0);
        row.splice(0..0, [load(OFFSET_ARGUMENTS + 8 * argument), check]);
    }
    row
}

/// A block that runs only when the comparison holds. The accumulator must still hold the same
/// value after it, so a block either returns or is not entered.
fn skip_unless(code: u16, value: u32, block: &[Instruction]) -> Vec<Instruction> {
    let mut guarded = Vec::with_capacity(block.len() + 2);
    if block.len() <= usize::from(u8::MAX) {
        guarded.push(jump(code, value, 0, length_u8(block)));
    } else {
        // A conditional jump reaches 255 instructions; an unconditional one has 32 bits.
        guarded.push(jump(code, value, 1, 0));
        let over = u32::try_from(block.len()).unwrap_or(0);
        guarded.push(Instruction { code: 0x05, jump_true: 0, jump_false: 0, value: over });
    }
    guarded.extend_from_slice(block);
    guarded
}

fn length_u8(block: &[Instruction]) -> u8 {
    u8::try_from(block.len()).unwrap_or(u8::MAX)
}

fn load(offset: u32) -> Instruction {
    Instruction { code: LOAD, jump_true: 0, jump_false: 0, value: offset }
}

fn jump(code: u16, value: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, value }
}

fn give(value: u32) -> Instruction {
    Instruction { code: RETURN, jump_true: 0, jump_false: 0, value }
}

#[cfg(test)]
mod tests;
