//! Identity: who asks, for rules that look at programs and users.
//!
//! in: a thread that is held in a call; out: its program, process and user, as the guest's kernel
//! tells them to the supervisor. The gateway takes this for what it is, the guest's word. Owner: the
//! supervisor's thread. Kept: program and user are looked up at every connect, so exec and setuid
//! count at once (one readlink and one stat, about 3 us); only users' names are remembered. Bounds:
//! [`limits::USERS_MAX`], [`limits::USER_FILE_BYTES_MAX`].

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::time::{Instant, SystemTime};

use outsock_vmrpc::socket::Asserted;

use crate::limits;

/// Where names of users stand. (Other sources need libraries that a static program cannot load.)
const USER_FILE: &str = "/etc/passwd";

/// What the kernel puts behind the path of a program whose file was replaced while it runs, as an
/// update does.
const REPLACED: &str = " (deleted)";

/// Looks up who asks.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    names: HashMap<u32, Option<String>>,
    /// Of the file that the names are from, and when it was looked at.
    changed: Option<SystemTime>,
    looked: Option<Instant>,
}

impl Identities {
    /// Who a held thread is. What cannot be found out is not said.
    pub(crate) fn of(&mut self, process: u32, thread: u32, now: Instant) -> Asserted {
        // The directory of a process belongs to its effective user, always.
        let user_id = std::fs::metadata(format!("/proc/{thread}")).ok().map(|of| of.uid());
        Asserted {
            program: program(thread),
            pid: Some(process),
            user_id,
            user_name: user_id.and_then(|id| self.user_name(id, now)),
        }
    }

    fn user_name(&mut self, id: u32, now: Instant) -> Option<String> {
        if self.looked.is_none_or(|looked| now >= looked + limits::USER_FILE_CHECK) {
            self.looked = Some(now);
            let changed = std::fs::metadata(USER_FILE).and_then(|file| file.modified()).ok();
            if changed != self.changed {
                self.changed = changed;
                self.names.clear();
            }
        }
        if let Some(name) = self.names.get(&id) {
            return name.clone();
        }
        if self.names.len() >= limits::USERS_MAX {
            self.names.clear();
        }
        let name = File::open(USER_FILE).ok().and_then(|file| {
            let mut text = Vec::new();
            file.take(limits::USER_FILE_BYTES_MAX).read_to_end(&mut text).ok()?;
            name_in(&String::from_utf8_lossy(&text), id)
        });
        self.names.insert(id, name.clone());
        name
    }
}

fn program(thread: u32) -> Option<String> {
    let path = std::fs::read_link(format!("/proc/{thread}/exe")).ok()?;
    let path = path.into_os_string().into_string().ok()?;
    Some(path.strip_suffix(REPLACED).unwrap_or(&path).to_owned())
}

/// The first name of a user in a file like /etc/passwd.
fn name_in(text: &str, id: u32) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(id) && !name.is_empty()).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_itself() {
        let me = std::process::id();
        let mut identities = Identities::default();
        let said = identities.of(me, me, Instant::now());
        let program = std::env::current_exe().unwrap().into_os_string().into_string().unwrap();
        let user_id = std::fs::metadata("/proc/self").unwrap().uid();
        let expected =
            (Some(program.trim_end_matches(REPLACED).to_owned()), Some(me), Some(user_id));
        assert_eq!((said.program, said.pid, said.user_id), expected);
        assert_eq!(said.user_name, identities.of(me, me, Instant::now()).user_name);
    }

    #[test]
    fn who_cannot_be_looked_at_is_nobody() {
        let said = Identities::default().of(7, u32::MAX, Instant::now());
        assert_eq!(said, Asserted { pid: Some(7), ..Asserted::default() });
    }

    #[test]
    fn users_have_names() {
        let text = "root:x:0:0:root:/root:/bin/sh\n\nnonsense\n:x:5:5::/:\nweb:x:33:33::/var:\n";
        assert_eq!(name_in(text, 0).as_deref(), Some("root"));
        assert_eq!(name_in(text, 33).as_deref(), Some("web"));
        assert_eq!((name_in(text, 5), name_in(text, 34)), (None, None));
    }
}
