//! The `modules` host module, version 1: which modules there are, and who uses them.
//!
//! A guest hears of the modules that it may use and of its own bindings. Every guest may ask.

use crate::limits;
use crate::name::{Version, VersionRange};
use crate::queue::Form;
use crate::wire::{Malformed, Reader, Writer};

/// The module's name.
pub const NAME: &str = "modules";

/// The versions that this crate describes.
pub const VERSIONS: VersionRange = VersionRange::only(Version(1));

/// Function 1: the modules. No arguments; the result is a [`List`].
pub const LIST: u32 = 1;

/// Bytes of a kind's name.
const KIND_BYTES_MAX: usize = 16;

/// Result of [`LIST`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// The modules, by name.
    pub modules: Vec<Module>,
}

/// One module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// `gateway`, `process` or `ebpf`.
    pub kind: String,
    /// What it serves.
    pub versions: VersionRange,
    /// Whether it can be called now.
    pub available: bool,
    /// This guest's bindings.
    pub bindings: Vec<Bound>,
    /// How many of them are left out because there are too many for one answer.
    pub left_out: u32,
}

/// One binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The program, as it says.
    pub client: String,
    /// The version that was picked.
    pub version: Version,
    /// Calls so far.
    pub calls: u64,
    /// How many of them failed.
    pub errors: u64,
    /// Calls under way.
    pub in_flight: u64,
    /// Its event queues.
    pub queues: Vec<Queue>,
}

/// One event queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// How its events travel; `None` until the guest opened it.
    pub form: Option<Form>,
    /// Bytes of each direction.
    pub bytes: u32,
    /// Bytes that wait for the module.
    pub to_host_bytes: u32,
    /// Bytes that wait for the guest.
    pub to_guest_bytes: u32,
}

impl List {
    /// As a result.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new().u16(count(self.modules.len()));
        for module in &self.modules {
            writer = writer.text(&module.name).text(&module.kind);
            writer = writer.u16(module.versions.first().0).u16(module.versions.last().0);
            writer = writer.u8(module.available.into()).u32(module.left_out);
            writer = writer.u16(count(module.bindings.len()));
            writer = module.bindings.iter().fold(writer, |writer, bound| bound.write(writer));
        }
        writer.finish()
    }

    /// From a result.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let modules =
            (0..reader.u16()?).map(|_| Module::read(&mut reader)).collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self { modules })
    }
}

fn count(n: usize) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}

fn number(reader: &mut Reader<'_>) -> Result<u64, Malformed> {
    Ok(u64::from(reader.u32()?) | u64::from(reader.u32()?) << 32)
}

#[expect(clippy::cast_possible_truncation, reason = "each half by itself")]
fn write_number(writer: Writer, value: u64) -> Writer {
    writer.u32(value as u32).u32((value >> 32) as u32)
}

impl Module {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let name = reader.text(limits::MODULE_NAME_BYTES_MAX)?.to_owned();
        let kind = reader.text(KIND_BYTES_MAX)?.to_owned();
        let versions = VersionRange::new(Version(reader.u16()?), Version(reader.u16()?));
        let versions = versions.ok_or(Malformed("empty version range"))?;
        let available = reader.u8()? != 0;
        let left_out = reader.u32()?;
        let bindings = (0..reader.u16()?).map(|_| Bound::read(reader)).collect::<Result<_, _>>()?;
        Ok(Self { name, kind, versions, available, bindings, left_out })
    }
}

impl Bound {
    fn write(&self, writer: Writer) -> Writer {
        let writer = writer.text(&self.client).u16(self.version.0);
        let writer =
            [self.calls, self.errors, self.in_flight].into_iter().fold(writer, write_number);
        let writer = writer.u16(count(self.queues.len()));
        self.queues.iter().fold(writer, |writer, queue| {
            let form = match queue.form {
                None => 0,
                Some(Form::Stream) => 1,
                Some(Form::Shared) => 2,
            };
            writer.u8(form).u32(queue.bytes).u32(queue.to_host_bytes).u32(queue.to_guest_bytes)
        })
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        // A name that was not UTF-8 has grown up to three times.
        let client = reader.text(3 * limits::CLIENT_NAME_BYTES_MAX)?.to_owned();
        let version = Version(reader.u16()?);
        let (calls, errors, in_flight) = (number(reader)?, number(reader)?, number(reader)?);
        let queues = reader.u16()?;
        let mut queue = || {
            let form = match reader.u8()? {
                0 => None,
                1 => Some(Form::Stream),
                2 => Some(Form::Shared),
                _ => return Err(Malformed("form")),
            };
            Ok(Queue {
                form,
                bytes: reader.u32()?,
                to_host_bytes: reader.u32()?,
                to_guest_bytes: reader.u32()?,
            })
        };
        let queues = (0..queues).map(|_| queue()).collect::<Result<_, _>>()?;
        Ok(Self { client, version, calls, errors, in_flight, queues })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lists_survive_the_wire(
            names in proptest::collection::vec("[a-z]{1,64}", 0..5),
            calls in any::<u64>(),
            bytes in any::<u32>(),
        ) {
            let form = [None, Some(Form::Stream), Some(Form::Shared)][(calls % 3) as usize];
            let queue =
                Queue { form, bytes, to_host_bytes: bytes / 2, to_guest_bytes: bytes / 3 };
            let module = |name: String| Module {
                kind: "process".to_owned(),
                versions: VersionRange::only(Version(7)),
                available: calls % 2 == 0,
                left_out: 3,
                bindings: vec![Bound {
                    client: name.clone(),
                    version: Version(7),
                    calls,
                    errors: calls / 2,
                    in_flight: 1,
                    queues: vec![queue; 2],
                }],
                name,
            };
            let list = List { modules: names.into_iter().map(module).collect() };
            prop_assert_eq!(List::decode(&list.encode()), Ok(list));
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = List::decode(&bytes);
        }
    }
}
