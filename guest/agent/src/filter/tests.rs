//! The program, run by a small interpreter that knows exactly the instructions in use.

use super::*;

fn run(program: &[Instruction], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let word = |offset: u32| -> u32 {
        let low = |value: u64| u32::try_from(value & 0xffff_ffff).unwrap();
        match offset {
            OFFSET_NUMBER => number,
            OFFSET_ARCH => arch,
            _ => {
                let at = offset - OFFSET_ARGUMENTS;
                assert_eq!(at % 8, 0, "low halves only");
                low(arguments[usize::try_from(at / 8).unwrap()])
            }
        }
    };
    let (mut at, mut accumulator) = (0usize, 0u32);
    loop {
        let instruction = program[at];
        at += 1;
        let holds = match instruction.code {
            LOAD => {
                accumulator = word(instruction.value);
                continue;
            }
            RETURN => return instruction.value,
            0x05 => {
                at += usize::try_from(instruction.value).unwrap();
                continue;
            }
            JUMP_EQUAL => accumulator == instruction.value,
            JUMP_AT_LEAST => accumulator >= instruction.value,
            JUMP_BIT => accumulator & instruction.value != 0,
            code => panic!("unexpected instruction {code:#x}"),
        };
        let over = if holds { instruction.jump_true } else { instruction.jump_false };
        at += usize::from(over);
    }
}

const ALL: Answered = Answered { in_queue: true, out_queue: true };

fn native(number: u32, arguments: [u64; 6]) -> u32 {
    run(&program(ALL), ARCH_X86_64, number, arguments)
}

fn refuse(errno: i32) -> u32 {
    RETURN_ERRNO | errno.cast_unsigned()
}

#[test]
fn connect_is_trapped_by_its_length_only() {
    let connect = |length| native(42, [3, 0x7fff_0000, length, 0, 0, 0]);
    for length in [16, 28, 24, 128, 2] {
        assert_eq!(connect(length), RETURN_NOTIFY, "{length}");
    }
    for length in [110, 0, 1, 3, 15, 12] {
        assert_eq!(connect(length), RETURN_ALLOW, "{length}");
    }
    // The kernel takes an int: rubbish in the upper half must not hide a call.
    assert_eq!(connect(0xdead_beef_0000_0010), RETURN_NOTIFY);
}

#[test]
fn options_are_trapped_by_level_and_name() {
    let get = |level, name| native(55, [3, level, name, 0, 0, 0]);
    let set = |level, name| native(54, [3, level, name, 0, 0, 0]);
    // TCP has no level 40, but vsock has.
    for level in [0, 6, 40, 41, 263] {
        assert_eq!((get(level, 1), set(level, 1)), (RETURN_NOTIFY, RETURN_NOTIFY));
    }
    for name in [4, 39, 38, 8, 7, 15] {
        assert_eq!(get(1, name), RETURN_NOTIFY, "{name}");
    }
    for name in [3, 9, 13, 20, 21] {
        assert_eq!((get(1, name), set(1, name)), (RETURN_ALLOW, RETURN_NOTIFY), "{name}");
    }
}

#[test]
fn duplicates_of_standard_streams_pass() {
    assert_eq!(native(33, [5, 1, 0, 0, 0, 0]), RETURN_ALLOW);
    assert_eq!(native(33, [1, 7, 0, 0, 0, 0]), RETURN_ALLOW);
    assert_eq!(native(33, [5, 7, 0, 0, 0, 0]), RETURN_NOTIFY);
    assert_eq!(native(32, [2, 0, 0, 0, 0, 0]), RETURN_ALLOW);
    assert_eq!(native(32, [4, 0, 0, 0, 0, 0]), RETURN_NOTIFY);
    assert_eq!(native(72, [4, 3, 0, 0, 0, 0]), RETURN_ALLOW);
    assert_eq!(native(72, [4, 0, 0, 0, 0, 0]), RETURN_NOTIFY);
    assert_eq!(native(72, [4, 1030, 0, 0, 0, 0]), RETURN_NOTIFY);
}

#[test]
fn ioctls_are_trapped_where_vsock_has_no_answer() {
    let ioctl = |answered, request| {
        run(&program(answered), ARCH_X86_64, 16, [5, request, 0x7fff_0000, 0, 0, 0])
    };
    let only_out = Answered { in_queue: false, out_queue: true };
    for (request, expected) in [
        (0x8905, [true, true, true]),
        (0x541b, [true, true, false]),
        (0x5411, [true, false, false]),
        (0x5421, [false; 3]),
    ] {
        for (answered, trapped) in [Answered::NONE, only_out, ALL].into_iter().zip(expected) {
            let verdict = if trapped { RETURN_NOTIFY } else { RETURN_ALLOW };
            assert_eq!(ioctl(answered, request), verdict, "{answered:?} {request:#x}");
        }
    }
}

#[test]
fn only_filters_with_a_listener_are_looked_at() {
    assert_eq!(native(317, [1, 8, 0x7fff_0000, 0, 0, 0]), RETURN_NOTIFY);
    assert_eq!(native(317, [1, 9, 0x7fff_0000, 0, 0, 0]), RETURN_NOTIFY);
    for arguments in [[1, 0], [1, 7], [0, 8], [2, 8]] {
        let [operation, flags] = arguments;
        assert_eq!(native(317, [operation, flags, 0, 0, 0, 0]), RETURN_ALLOW);
    }
}

#[test]
fn sends_with_an_internet_address_are_trapped() {
    let send = |length, flags| native(44, [5, 0, 9, flags, 0x7fff_0000, length]);
    for length in [16, 28, 128] {
        assert_eq!(send(length, 0), RETURN_NOTIFY, "{length}");
    }
    for length in [0, 2, 12, 110] {
        assert_eq!(send(length, 0), RETURN_ALLOW, "{length}");
    }
    assert_eq!(native(49, [5, 0, 16, 0, 0, 0]), RETURN_NOTIFY);
    assert_eq!(native(49, [5, 0, 110, 0, 0, 0]), RETURN_ALLOW);
}

#[test]
fn the_data_path_passes() {
    for number in [0, 1, 7, 19, 20, 45, 47, 232, 281, 40, 275, 3, 41, 49, 16] {
        assert_eq!(native(number, [5, 1, 2, 3, 4, 5]), RETURN_ALLOW, "{number}");
    }
    assert_eq!(native(44, [5, 0, 9, 0x4000, 0, 0]), RETURN_ALLOW);
    assert_eq!(native(44, [5, 0, 9, 0x2000_4000, 0, 0]), RETURN_NOTIFY);
    assert_eq!(native(46, [5, 0, 0x2000_0000, 0, 0, 0]), RETURN_NOTIFY);
    assert_eq!(native(307, [5, 0, 1, 0x2000_0000, 0, 0]), refuse(libc::EOPNOTSUPP));
    assert_eq!(native(425, [1, 0, 0, 0, 0, 0]), refuse(libc::ENOSYS));
}

#[test]
fn servers_calls_are_trapped() {
    for number in [43, 50, 288] {
        assert_eq!(native(number, [5, 1, 2, 3, 0, 0]), RETURN_NOTIFY, "{number}");
    }
    for how in [0, 1, 2] {
        assert_eq!(native(48, [5, how, 0, 0, 0, 0]), RETURN_NOTIFY);
    }
}

#[test]
fn other_calling_conventions_do_not_pass_by() {
    let compat = |number, arguments| run(&program(ALL), ARCH_I386, number, arguments);
    assert_eq!(compat(362, [3, 0, 16, 0, 0, 0]), RETURN_NOTIFY);
    assert_eq!(compat(102, [3, 0, 0, 0, 0, 0]), RETURN_NOTIFY);
    assert_eq!(compat(102, [1, 0, 0, 0, 0, 0]), RETURN_ALLOW);
    assert_eq!(compat(42, [0, 0, 16, 0, 0, 0]), RETURN_ALLOW);
    assert_eq!(compat(425, [0; 6]), refuse(libc::ENOSYS));
    assert_eq!(native(X32_BIT | 42, [3, 0, 16, 0, 0, 0]), refuse(libc::ENOSYS));
    assert_eq!(native(X32_BIT, [0; 6]), refuse(libc::ENOSYS));
    assert_eq!(run(&program(ALL), 0xc000_00b7, 203, [0; 6]), RETURN_ALLOW);
}

#[test]
fn numbers_and_calls_agree() {
    assert_eq!(call_of(ARCH_X86_64, 42), Some(Call::Connect));
    assert_eq!(call_of(ARCH_I386, 362), Some(Call::Connect));
    assert_eq!(call_of(ARCH_I386, 42), None);
    assert_eq!(call_of(ARCH_X86_64, 425), None);
    assert_eq!(call_of(ARCH_X86_64, 52), Some(Call::PeerName));
    assert_eq!(u32::try_from(libc::SYS_connect).unwrap(), 42);
    assert_eq!(u32::try_from(libc::SYS_getsockopt).unwrap(), 55);
    assert_eq!(u32::try_from(libc::SYS_io_uring_setup).unwrap(), 425);
    assert!(program(Answered::NONE).len() < 4096, "BPF_MAXINSNS");
}
