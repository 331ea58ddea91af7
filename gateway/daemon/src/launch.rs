//! Launch: from this program to one that is not trusted with anything of the gateway's.
//!
//! in: a user, a program with arguments; out: that program in this process's place, or an error. Kept: it
//! has the three standard descriptors and no other (guest memory that a VMM has sent is not closed by an
//! exec), can gain no privileges, ends with the gateway where it stays its user, and is another user's
//! where one is named. Bound: one process.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, bail};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::set_no_new_privs;

use crate::cli::Become;

/// The words in front of a program's own that start it by way of [`become_program`].
pub(crate) fn launcher(user: Option<&str>) -> std::io::Result<Vec<OsString>> {
    let mut words: Vec<OsString> = vec![std::env::current_exe()?.into(), "become".into()];
    if let Some(user) = user {
        words.extend(["--user".into(), user.into()]);
    }
    words.push("--".into());
    Ok(words)
}

/// Never returns when it works.
pub(crate) fn become_program(what: &Become) -> anyhow::Result<()> {
    outsock_device::close_descriptors().context("cannot close descriptors: Linux 5.9 can")?;
    set_no_new_privs(true).context("cannot give up privileges to come")?;
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot tie the process")?;
    let Some((program, arguments)) = what.program.split_first() else { bail!("no program") };
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(user) = &what.user {
        let (user_id, group_id) = user_of(user)?;
        // Its folder, in which it was started.
        std::os::unix::fs::chown(".", Some(user_id), Some(group_id))
            .context("cannot give its folder away")?;
        command.uid(user_id).gid(group_id);
    }
    Err(command.exec()).with_context(|| format!("cannot start {}", program.display()))
}

/// User and group of a name, by passwd(5).
fn user_of(name: &str) -> anyhow::Result<(u32, u32)> {
    let all = std::fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    for line in all.lines() {
        let mut fields = line.split(':');
        if fields.next() == Some(name) {
            let mut number = |skip| fields.nth(skip).and_then(|text| text.parse().ok());
            if let (Some(user), Some(group)) = (number(1), number(0)) {
                return Ok((user, group));
            }
        }
    }
    bail!("there is no user {name:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found() {
        assert_eq!(user_of("root").unwrap(), (0, 0));
        assert!(user_of("no-such-user").is_err());
    }
}
