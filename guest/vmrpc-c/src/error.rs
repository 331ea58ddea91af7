//! Return values: one table of codes, names and texts, the header's.

use std::ffi::CStr;

use outsock_vmrpc::{Errno, Fault, QueueError, RpcError};

pub(crate) const DISCONNECTED: i32 = -100;
pub(crate) const PROTOCOL: i32 = -101;
pub(crate) const ARGUMENTS_TOO_LARGE: i32 = -102;
pub(crate) const UNREACHABLE: i32 = -103;
pub(crate) const INVALID: i32 = -104;
pub(crate) const FULL: i32 = -200;
pub(crate) const EMPTY: i32 = -201;

pub(crate) fn of_rpc(error: &RpcError) -> i32 {
    match error {
        RpcError::Function(errno) => errno.raw(),
        RpcError::Host(fault) => -i32::from(fault.code()),
        RpcError::Disconnected => DISCONNECTED,
        RpcError::Protocol(_) => PROTOCOL,
        RpcError::ArgumentsTooLarge => ARGUMENTS_TOO_LARGE,
    }
}

/// `late`: what a timeout is called.
pub(crate) fn of_queue(error: QueueError, late: i32) -> i32 {
    match error {
        QueueError::TimedOut => late,
        QueueError::TooLarge => -202,
        QueueError::Deleted => -203,
        QueueError::ModuleGone => -204,
        QueueError::Disconnected => -205,
        QueueError::Garbled => -206,
        QueueError::Unmapped => -207,
        QueueError::TooMany => -i32::from(Fault::TooMany.code()),
    }
}

const TABLE: &[(i32, &CStr, &CStr)] = &[
    (0, c"OK", c"done"),
    (-1, c"OUTSOCK_E_UNSUPPORTED_PROTOCOL", c"guest and host speak no common VM RPC version"),
    (-2, c"OUTSOCK_E_NO_SUCH_MODULE", c"the gateway has no host module of that name"),
    (-3, c"OUTSOCK_E_UNSUPPORTED_VERSION", c"the host module serves none of these versions"),
    (-4, c"OUTSOCK_E_NOT_ALLOWED", c"this guest is not allowed to use that host module"),
    (-5, c"OUTSOCK_E_NO_SUCH_HANDLE", c"no module is bound under that handle"),
    (-6, c"OUTSOCK_E_NO_SUCH_FUNCTION", c"the host module has no function of that number"),
    (-7, c"OUTSOCK_E_BAD_ARGUMENTS", c"the arguments do not have the form that the function takes"),
    (-8, c"OUTSOCK_E_TOO_MANY", c"too many calls, bindings or event queues on this stream"),
    (-9, c"OUTSOCK_E_MODULE_GONE", c"the host module was unregistered"),
    (-10, c"OUTSOCK_E_RESULT_TOO_LARGE", c"the result does not fit into one frame"),
    (-11, c"OUTSOCK_E_MODULE_UNAVAILABLE", c"the host module's process is not running"),
    (-12, c"OUTSOCK_E_NO_SUCH_QUEUE", c"there is no event queue of that number"),
    (-13, c"OUTSOCK_E_QUEUE_NOT_SHARED", c"the event queue cannot lie in shared memory"),
    (-14, c"OUTSOCK_E_ALREADY_SERVED", c"another process serves that host module"),
    (DISCONNECTED, c"OUTSOCK_E_DISCONNECTED", c"the connection to the gateway is gone"),
    (PROTOCOL, c"OUTSOCK_E_PROTOCOL", c"the gateway sent a malformed frame"),
    (
        ARGUMENTS_TOO_LARGE,
        c"OUTSOCK_E_ARGUMENTS_TOO_LARGE",
        c"the arguments do not fit into one frame",
    ),
    (UNREACHABLE, c"OUTSOCK_E_UNREACHABLE", c"no gateway answers at vsock CID 2, port 1042"),
    (INVALID, c"OUTSOCK_E_INVALID", c"a null pointer, or a name that is not UTF-8"),
    (FULL, c"OUTSOCK_E_FULL", c"the event queue has no room"),
    (EMPTY, c"OUTSOCK_E_EMPTY", c"the event queue has no event"),
    (-202, c"OUTSOCK_E_EVENT_TOO_LARGE", c"the event is longer than half of the queue"),
    (-203, c"OUTSOCK_E_QUEUE_DELETED", c"the event queue was deleted"),
    (-204, c"OUTSOCK_E_QUEUE_MODULE_GONE", c"the event queue's host module is gone"),
    (-205, c"OUTSOCK_E_QUEUE_DISCONNECTED", c"the other side of the event queue is gone"),
    (-206, c"OUTSOCK_E_QUEUE_GARBLED", c"the other side garbled the event queue"),
    (-207, c"OUTSOCK_E_QUEUE_UNMAPPED", c"the event queue's memory is gone"),
];

/// Name and text. An errno's come from the table of [`Errno`], copied once.
pub(crate) fn describe(code: i32) -> (&'static CStr, &'static CStr) {
    if let Some((_, name, text)) = TABLE.iter().find(|entry| entry.0 == code) {
        return (name, text);
    }
    static ERRNOS: std::sync::OnceLock<Vec<(i32, std::ffi::CString, std::ffi::CString)>> =
        std::sync::OnceLock::new();
    let errnos = ERRNOS.get_or_init(|| {
        let copy = |text: &str| std::ffi::CString::new(text).unwrap_or_default();
        let entries = Errno::TABLE.iter();
        entries.map(|(errno, name, text)| (errno.raw(), copy(name), copy(text))).collect()
    });
    let found = errnos.iter().find(|entry| entry.0 == code);
    found.map_or((c"UNKNOWN", c"unknown error"), |entry| (&*entry.1, &*entry.2))
}
