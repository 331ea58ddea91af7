//! The functions of the header.
//!
//! Every pointer is the caller's promise, as the header words it; null is refused where a promise is
//! cheap to check. One operation per block.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use outsock_vmrpc::client::ConnectError;
use outsock_vmrpc::{
    Binding, Client, EventQueue, Form, Put, QueueError, RpcError, Ticket, Version, VersionRange,
};

use crate::error::{EMPTY, FULL, INVALID, UNREACHABLE, describe, of_queue, of_rpc};

/// Gives a value to the caller.
fn give<T>(to: *mut *mut T, value: T) -> c_int {
    let boxed = Box::into_raw(Box::new(value));
    // SAFETY: the callers have refused null; the header wants a pointer that may be written.
    unsafe { to.write(boxed) };
    0
}

/// Takes a value back. Null is nothing.
fn take<T>(pointer: *mut T) -> Option<Box<T>> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: the header wants what `give` gave, once.
    Some(unsafe { Box::from_raw(pointer) })
}

/// Borrows a value for the call.
fn borrow<'a, T>(pointer: *const T) -> Option<&'a T> {
    // SAFETY: null, or what `give` gave and was not taken back.
    unsafe { pointer.as_ref() }
}

fn bytes<'a>(pointer: *const c_void, length: usize) -> Option<&'a [u8]> {
    match (pointer.is_null(), length) {
        (_, 0) => Some(&[]),
        (true, _) => None,
        // SAFETY: the header wants `length` readable bytes there for the time of the call.
        (false, _) => Some(unsafe { std::slice::from_raw_parts(pointer.cast(), length) }),
    }
}

/// Gives bytes to the caller; both pointers may be null.
fn give_bytes(value: Vec<u8>, to: *mut *mut c_void, length: *mut usize) -> c_int {
    if !length.is_null() {
        // SAFETY: not null, and the header wants a pointer that may be written.
        unsafe { length.write(value.len()) };
    }
    if !to.is_null() {
        let pointer = Box::into_raw(value.into_boxed_slice()).cast::<c_void>();
        // SAFETY: as above.
        unsafe { to.write(pointer) };
    }
    0
}

fn timeout(ms: c_int) -> Option<Duration> {
    u64::try_from(ms).ok().map(Duration::from_millis)
}

#[unsafe(no_mangle)]
extern "C" fn outsock_connect(client: *mut *mut Client) -> c_int {
    if client.is_null() {
        return INVALID;
    }
    match Client::connect() {
        Ok(connected) => give(client, connected),
        // The last system call has left its errno.
        Err(ConnectError::Stream(_)) => UNREACHABLE,
        Err(ConnectError::Rpc(error)) => of_rpc(&error),
    }
}

#[unsafe(no_mangle)]
extern "C" fn outsock_connect_fd(fd: c_int, client: *mut *mut Client) -> c_int {
    if client.is_null() || fd < 0 {
        return INVALID;
    }
    // SAFETY: the header gives the descriptor to the library.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    match Client::new(fd) {
        Ok(connected) => give(client, connected),
        Err(error) => of_rpc(&error),
    }
}

#[unsafe(no_mangle)]
extern "C" fn outsock_disconnect(client: *mut Client) {
    drop(take(client));
}

#[unsafe(no_mangle)]
extern "C" fn outsock_bind_module(
    client: *const Client,
    name: *const c_char,
    first: u16,
    last: u16,
    binding: *mut *mut Binding,
) -> c_int {
    let Some(client) = borrow(client).filter(|_| !name.is_null() && !binding.is_null()) else {
        return INVALID;
    };
    // SAFETY: not null, and the header wants a text with an end.
    let name = unsafe { CStr::from_ptr(name) };
    let Ok(name) = name.to_str() else { return INVALID };
    let Some(versions) = VersionRange::new(Version(first), Version(last)) else { return INVALID };
    match client.bind_module(name, versions) {
        Ok(bound) => give(binding, bound),
        Err(error) => of_rpc(&error),
    }
}

#[unsafe(no_mangle)]
extern "C" fn outsock_version(binding: *const Binding) -> u16 {
    borrow(binding).map_or(0, |binding| binding.version().0)
}

#[unsafe(no_mangle)]
extern "C" fn outsock_unbind_module(binding: *mut Binding) -> c_int {
    let Some(binding) = take(binding) else { return INVALID };
    done(binding.unbind_module())
}

fn done(outcome: Result<(), RpcError>) -> c_int {
    outcome.map_or_else(|error| of_rpc(&error), |()| 0)
}

#[unsafe(no_mangle)]
extern "C" fn outsock_perform_rpc(
    binding: *const Binding,
    function: u32,
    arguments: *const c_void,
    arguments_bytes: usize,
    result: *mut *mut c_void,
    result_bytes: *mut usize,
) -> c_int {
    let (Some(binding), Some(arguments)) = (borrow(binding), bytes(arguments, arguments_bytes))
    else {
        return INVALID;
    };
    match binding.perform_rpc(function, arguments) {
        Ok(value) => give_bytes(value, result, result_bytes),
        Err(error) => of_rpc(&error),
    }
}

#[unsafe(no_mangle)]
extern "C" fn outsock_free(pointer: *mut c_void, length: usize) {
    if pointer.is_null() {
        return;
    }
    let slice = ptr::slice_from_raw_parts_mut(pointer.cast::<u8>(), length);
    // SAFETY: the header wants what `give_bytes` gave, with its length, once.
    drop(unsafe { Box::from_raw(slice) });
}

#[unsafe(no_mangle)]
extern "C" fn outsock_open_ev_queue(
    binding: *const Binding,
    ticket: *const u8,
    queue: *mut *mut EventQueue,
) -> c_int {
    let Some(binding) = borrow(binding).filter(|_| !queue.is_null()) else { return INVALID };
    let ticket = (!ticket.is_null()).then(|| bytes(ticket.cast(), 8)).flatten();
    let ticket = ticket.and_then(|ticket| Ticket::decode(ticket).ok());
    let Some(ticket) = ticket else { return INVALID };
    match binding.open_ev_queue(ticket) {
        Ok(opened) => give(queue, opened),
        Err(error) => of_rpc(&error),
    }
}

#[unsafe(no_mangle)]
extern "C" fn outsock_queue_is_shared(queue: *const EventQueue) -> c_int {
    borrow(queue).map_or(0, |queue| c_int::from(queue.form() == Form::Shared))
}

#[unsafe(no_mangle)]
extern "C" fn outsock_put_event(
    queue: *const EventQueue,
    event: *const c_void,
    length: usize,
    timeout_ms: c_int,
) -> c_int {
    let (Some(queue), Some(event)) = (borrow(queue), bytes(event, length)) else { return INVALID };
    let outcome = match timeout_ms {
        0 => match queue.put_event(event) {
            Ok(Put::Taken) => Ok(()),
            Ok(Put::Full) => Err(QueueError::TimedOut),
            Err(error) => Err(error),
        },
        ms => queue.put_event_wait(event, timeout(ms)),
    };
    outcome.map_or_else(|error| of_queue(error, FULL), |()| 0)
}

#[unsafe(no_mangle)]
extern "C" fn outsock_get_event(
    queue: *const EventQueue,
    event: *mut *mut c_void,
    length: *mut usize,
    timeout_ms: c_int,
) -> c_int {
    let Some(queue) = borrow(queue) else { return INVALID };
    let outcome = match timeout_ms {
        0 => queue.get_event().and_then(|event| event.ok_or(QueueError::TimedOut)),
        ms => queue.get_event_wait(timeout(ms)),
    };
    match outcome {
        Ok(value) => give_bytes(value, event, length),
        Err(error) => of_queue(error, EMPTY),
    }
}

#[unsafe(no_mangle)]
extern "C" fn outsock_close_ev_queue(queue: *mut EventQueue) {
    drop(take(queue));
}

#[unsafe(no_mangle)]
extern "C" fn outsock_error_name(error: c_int) -> *const c_char {
    describe(error).0.as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn outsock_error_text(error: c_int) -> *const c_char {
    describe(error).1.as_ptr()
}
