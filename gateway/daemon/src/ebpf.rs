//! EbpfModule: a host module that runs in the host's kernel.
//!
//! in: an object file whose `SEC("syscall")` programs are the functions; out: a module. The kernel has
//! verified the programs before the module is registered; it runs each call with BPF_PROG_RUN, whose
//! context is [`Call`]: arguments in, result out. Owner: a blocking thread of the runtime per call.
//! Kept: a program reaches the kernel only through what the verifier lets it, and its own maps. Bound:
//! [`limits::EBPF_DATA_BYTES`] of arguments and of result.

#[cfg(test)]
mod tests;

use std::mem::offset_of;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use libbpf_rs::{Object, ObjectBuilder, ProgramInput, ProgramType};
use outsock_vmrpc::host::{CallError, Caller, HostModule};
use outsock_vmrpc::{Errno, ModuleName, Version, VersionRange};

use crate::limits;

/// The context of a program, all integers little-endian as the host's:
///
/// ```c
/// struct outsock_call {
///     __u32 arguments_bytes;    /* how much of data is arguments */
///     __u32 result_bytes;       /* the program sets how much of data is the result */
///     __u64 cid;                /* who calls */
///     __u8  data[4096];
/// };
/// ```
///
/// A program returns 0, or the errno (positive or negative) that the guest's call fails with.
#[repr(C)]
struct Call {
    arguments_bytes: u32,
    result_bytes: u32,
    cid: u64,
    data: [u8; limits::EBPF_DATA_BYTES],
}

/// See the module.
pub(crate) struct EbpfModule {
    name: ModuleName,
    version: Version,
    functions: Arc<[String]>,
    /// The library's handle may be used by one thread at a time.
    object: Arc<Mutex<Object>>,
}

impl std::fmt::Debug for EbpfModule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EbpfModule").field("name", &self.name).finish_non_exhaustive()
    }
}

impl EbpfModule {
    /// Loads an object and has the kernel verify it.
    pub(crate) fn load(
        name: ModuleName,
        path: &Path,
        functions: &[String],
        version: Version,
    ) -> Result<Self, String> {
        let at = |what: &str, error: &dyn std::fmt::Display| {
            format!("{}: {what}: {error}", path.display())
        };
        let mut builder = ObjectBuilder::default();
        let open = builder.open_file(path).map_err(|error| at("no eBPF object", &error))?;
        let object = open.load().map_err(|error| {
            at("the kernel does not take it (a gateway needs CAP_BPF and CAP_PERFMON)", &error)
        })?;
        for function in functions {
            let program = object.progs().find(|program| program.name() == function.as_str());
            match program.map(|program| program.prog_type()) {
                Some(ProgramType::Syscall) => {}
                Some(other) => {
                    let message = format!("is of type {other:?}, not SEC(\"syscall\")");
                    return Err(at(function, &message));
                }
                None => return Err(at(function, &"there is no program of that name")),
            }
        }
        let object = Arc::new(Mutex::new(object));
        Ok(Self { name, version, functions: functions.into(), object })
    }
}

#[async_trait::async_trait]
impl HostModule for EbpfModule {
    fn name(&self) -> ModuleName {
        self.name.clone()
    }

    fn versions(&self) -> VersionRange {
        VersionRange::only(self.version)
    }

    fn kind(&self) -> &'static str {
        "ebpf"
    }

    async fn call(
        &self,
        caller: &Caller,
        _: Version,
        function: u32,
        arguments: Vec<u8>,
    ) -> Result<Vec<u8>, CallError> {
        let index = function.checked_sub(1).and_then(|index| usize::try_from(index).ok());
        let index = index.filter(|index| *index < self.functions.len());
        let index = index.ok_or(CallError::NoSuchFunction)?;
        let (functions, object) = (Arc::clone(&self.functions), Arc::clone(&self.object));
        let cid = caller.cid;
        // A program may run for long, if the verifier can see that it ends.
        let run = move || {
            let object = object.lock().unwrap_or_else(PoisonError::into_inner);
            run(&object, &functions[index], cid, &arguments)
        };
        tokio::task::spawn_blocking(run).await.map_err(|_| CallError::Errno(Errno::EIO))?
    }
}

fn run(object: &Object, function: &str, cid: u64, arguments: &[u8]) -> Result<Vec<u8>, CallError> {
    let data_at = offset_of!(Call, data);
    let mut context = vec![0u8; size_of::<Call>()];
    let room = context.get_mut(data_at..data_at + arguments.len());
    room.ok_or(CallError::BadArguments)?.copy_from_slice(arguments);
    let length = u32::try_from(arguments.len()).map_err(|_| CallError::BadArguments)?;
    context[..4].copy_from_slice(&length.to_ne_bytes());
    context[offset_of!(Call, cid)..][..8].copy_from_slice(&cid.to_ne_bytes());
    let mut programs = object.progs_mut();
    let program = programs.find(|program| program.name() == function);
    let program = program.ok_or(CallError::NoSuchFunction)?;
    let input = ProgramInput { context_in: Some(&mut context), ..ProgramInput::default() };
    let output = program.test_run(input).map_err(|error| {
        tracing::debug!(function, %error, "BPF_PROG_RUN");
        CallError::Errno(Errno::EIO)
    })?;
    let returned = output.return_value.cast_signed();
    if returned != 0 {
        return Err(CallError::Errno(Errno::new(returned.wrapping_abs()).unwrap_or(Errno::EIO)));
    }
    let [r0, r1, r2, r3] = *context[4..].first_chunk().ok_or(CallError::ResultTooLarge)?;
    let bytes = u32::from_ne_bytes([r0, r1, r2, r3]) as usize;
    let result = context.get(data_at..data_at.saturating_add(bytes));
    Ok(result.ok_or(CallError::ResultTooLarge)?.to_vec())
}
