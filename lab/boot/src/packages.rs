//! Debian packages: installed on the machine, or fetched from any suite and unpacked into a directory.
//!
//! Enters: package names, a suite, a directory. Leaves: installed programs, unpacked files.
//! Owns the private apt state of each suite. Invariant: fetching a package never changes the machine's own apt
//! state; where the archive is comes from the machine's own sources, so no host is named here.
//! Bound: one `apt-get` at a time per state directory (the caller's lock), three tries per download.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::limits::PACKAGE_LOCK_TIMEOUT;
use crate::sys;

const ARCHIVE_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const DOWNLOAD_TRIES: u32 = 3;
/// Lines of apt's own words in an error.
const LINES_IN_ERROR: usize = 12;

/// Why a package is not there.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// This process may not install.
    #[error("these packages are missing: {0}; install them with: sudo apt-get install {0}")]
    NotRoot(String),
    /// A program of the package system is missing or does not start.
    #[error("cannot start {program}: {source}; this needs a Debian system with apt")]
    Start {
        /// The program.
        program: &'static str,
        /// The system's word.
        source: io::Error,
    },
    /// A program of the package system failed.
    #[error(
        "{action} failed; check the network and the machine's apt sources, then try again. {program} said:\n{said}"
    )]
    Failed {
        /// What was tried.
        action: String,
        /// The program.
        program: &'static str,
        /// The end of what it printed.
        said: String,
    },
    /// The machine's sources name no Debian archive.
    #[error(
        "the machine's apt sources have no Debian \"main\" component to take packages from; add one, then run: apt-get update"
    )]
    NoArchive,
    /// A file of the private state cannot be written or read.
    #[error("cannot use {path}: {source}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
}

fn output(program: &'static str, command: &mut Command) -> Result<Output, PackageError> {
    command
        .env("LC_ALL", "C.UTF-8")
        .output()
        .map_err(|source| PackageError::Start { program, source })
}

fn checked(
    action: &str,
    program: &'static str,
    command: &mut Command,
) -> Result<String, PackageError> {
    let output = output(program, command)?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let all = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = all.lines().filter(|line| !line.trim().is_empty()).collect();
    let said = lines[lines.len().saturating_sub(LINES_IN_ERROR)..].join("\n");
    Err(PackageError::Failed { action: action.to_owned(), program, said })
}

/// The ones of `packages` that dpkg does not know as installed.
fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>, PackageError> {
    let mut missing = Vec::new();
    for package in packages {
        let mut query = Command::new("dpkg-query");
        let output =
            output("dpkg-query", query.args(["-W", "-f", "${db:Status-Status}", "--", package]))?;
        if !output.status.success() || output.stdout != b"installed" {
            missing.push(*package);
        }
    }
    Ok(missing)
}

/// Installs those of `packages` that the machine does not have, with `apt-get`. Says what it does through
/// `progress`. Needs root if anything is missing.
///
/// # Errors
/// [`PackageError`] if something is missing and could not be installed; the message says what to do.
pub fn install_missing(
    packages: &[&str],
    progress: &mut dyn FnMut(&str),
) -> Result<(), PackageError> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !sys::is_root() {
        return Err(PackageError::NotRoot(names));
    }
    progress(&format!("installing {names} (apt-get, a few minutes at most)"));
    let _no_services = NoServices::begin();
    let install = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt.args(["install", "--yes", "--no-install-recommends", "-o"]);
        apt.arg(format!("DPkg::Lock::Timeout={}", PACKAGE_LOCK_TIMEOUT.as_secs()));
        apt.args(["-o", &format!("Acquire::Retries={DOWNLOAD_TRIES}"), "--"]).args(&missing);
        checked(&format!("installing {names}"), "apt-get", &mut apt)
    };
    if install().is_err() {
        // A fresh machine has no package lists, an old one has stale ones.
        progress("updating the machine's package lists (apt-get update)");
        checked("updating the package lists", "apt-get", Command::new("apt-get").arg("update"))?;
        install()?;
    }
    progress(&format!("installed {names}"));
    Ok(())
}

/// While it lives, packages that are installed do not start their services: Debian's `invoke-rc.d` asks this file.
struct NoServices {
    made: bool,
}

impl NoServices {
    const POLICY: &str = "/usr/sbin/policy-rc.d";

    /// A policy that the machine has already stays as it is.
    fn begin() -> Self {
        let script = "#!/bin/sh\n# While packages for tests are installed.\nexit 101\n";
        let options =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(Self::POLICY);
        Self { made: options.and_then(|mut file| file.write_all(script.as_bytes())).is_ok() }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.made {
            // Left over it would only keep services from starting.
            let _ = fs::remove_file(Self::POLICY);
        }
    }
}

/// A private apt state for one suite.
#[derive(Debug)]
pub(crate) struct Suite {
    name: &'static str,
    directory: PathBuf,
}

impl Suite {
    /// Fetches the suite's package list into `directory`.
    pub(crate) fn open(
        name: &'static str,
        directory: PathBuf,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Self, PackageError> {
        let archive = archive(progress)?;
        let suite = Self { name, directory };
        for path in ["state/lists/partial", "cache/archives/partial", "packages", "parts"] {
            let path = suite.directory.join(path);
            fs::create_dir_all(&path).map_err(|source| PackageError::File { path, source })?;
        }
        let signed_by = if Path::new(ARCHIVE_KEYRING).exists() {
            format!(" [signed-by={ARCHIVE_KEYRING}]")
        } else {
            String::new()
        };
        suite.write("sources.list", &format!("deb{signed_by} {archive} {name} main\n"))?;
        suite.write("state/status", "")?;
        suite.write("apt.conf", &suite.configuration())?;
        progress(&format!("fetching the package list of Debian {name}"));
        checked(
            &format!("fetching the package list of Debian {name}"),
            "apt-get",
            suite.apt("apt-get").arg("update"),
        )?;
        Ok(suite)
    }

    fn write(&self, file: &str, text: &str) -> Result<(), PackageError> {
        let path = self.directory.join(file);
        fs::write(&path, text).map_err(|source| PackageError::File { path, source })
    }

    /// Settings that keep apt inside the directory. The machine's own configuration (a proxy, say) still counts.
    fn configuration(&self) -> String {
        let directory = self.directory.display();
        format!(
            "Dir::Etc::sourcelist \"{directory}/sources.list\";\n\
             Dir::Etc::sourceparts \"{directory}/parts\";\n\
             Dir::Etc::preferences \"{directory}/parts/none\";\n\
             Dir::Etc::preferencesparts \"{directory}/parts\";\n\
             Dir::State \"{directory}/state\";\n\
             Dir::State::status \"{directory}/state/status\";\n\
             Dir::Cache \"{directory}/cache\";\n\
             Acquire::Languages \"none\";\n\
             Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
             Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled \"false\";\n\
             Acquire::Retries \"{DOWNLOAD_TRIES}\";\n\
             APT::Update::Error-Mode \"any\";\n\
             APT::Sandbox::User \"\";\n\
             APT::Get::List-Cleanup \"true\";\n"
        )
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", self.directory.join("apt.conf"))
            .current_dir(self.directory.join("packages"));
        command
    }

    /// The package that `meta` depends on and whose name starts with `prefix`.
    pub(crate) fn dependency(&self, meta: &str, prefix: &str) -> Result<String, PackageError> {
        let action = format!("looking up {meta} in Debian {}", self.name);
        let shown = checked(
            &action,
            "apt-cache",
            self.apt("apt-cache").args(["show", "--no-all-versions", "--", meta]),
        )?;
        let depends =
            shown.lines().find_map(|line| line.strip_prefix("Depends:")).unwrap_or_default();
        let names = depends.split([',', '|']).filter_map(|entry| entry.split_whitespace().next());
        let found = names.into_iter().find(|name| name.starts_with(prefix));
        found.map(str::to_owned).ok_or_else(|| PackageError::Failed {
            action,
            program: "apt-cache",
            said: format!("{meta} depends on no package {prefix}*"),
        })
    }

    /// Fetches `package` and unpacks it into `target`, without installing it.
    pub(crate) fn unpack(
        &self,
        package: &str,
        target: &Path,
        progress: &mut dyn FnMut(&str),
    ) -> Result<(), PackageError> {
        progress(&format!("downloading {package} from Debian {}", self.name));
        let packages = self.directory.join("packages");
        self.remove_packages(&packages)?;
        checked(
            &format!("downloading {package}"),
            "apt-get",
            self.apt("apt-get").args(["download", "--", package]),
        )?;
        let file =
            self.downloaded(&packages)?.into_iter().next().ok_or_else(|| PackageError::Failed {
                action: format!("downloading {package}"),
                program: "apt-get",
                said: "it left no package file".to_owned(),
            })?;
        progress(&format!("unpacking {package}"));
        let mut unpack = Command::new("dpkg-deb");
        checked(
            &format!("unpacking {package}"),
            "dpkg-deb",
            unpack.arg("-x").arg(&file).arg(target),
        )?;
        self.remove_packages(&packages)
    }

    fn downloaded(&self, packages: &Path) -> Result<Vec<PathBuf>, PackageError> {
        let failed = |source| PackageError::File { path: packages.to_owned(), source };
        let entries = fs::read_dir(packages).map_err(failed)?;
        let paths =
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>();
        let paths = paths.map_err(failed)?;
        Ok(paths
            .into_iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .collect())
    }

    fn remove_packages(&self, packages: &Path) -> Result<(), PackageError> {
        for path in self.downloaded(packages)? {
            fs::remove_file(&path).map_err(|source| PackageError::File { path, source })?;
        }
        Ok(())
    }
}

/// Where the machine's own sources take Debian's main component from.
fn archive(progress: &mut dyn FnMut(&str)) -> Result<String, PackageError> {
    if let Some(found) = listed_archive()? {
        return Ok(found);
    }
    if sys::is_root() {
        progress("updating the machine's package lists (apt-get update)");
        checked("updating the package lists", "apt-get", Command::new("apt-get").arg("update"))?;
    }
    listed_archive()?.ok_or(PackageError::NoArchive)
}

fn listed_archive() -> Result<Option<String>, PackageError> {
    let format = "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(CREATED_BY)|$(REPO_URI)";
    let mut apt = Command::new("apt-get");
    let text = checked(
        "listing the machine's apt sources",
        "apt-get",
        apt.args(["indextargets", "--format", format]),
    )?;
    // The label tells the archive from the security archive, which has no other suites.
    let prefix = "Debian|Debian|main|Packages|";
    Ok(text.lines().find_map(|line| line.strip_prefix(prefix)).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_not_missing() {
        assert_eq!(
            missing(&["dpkg", "no-such-package-at-all"]).unwrap(),
            ["no-such-package-at-all"]
        );
        install_missing(&["dpkg"], &mut |line| panic!("nothing to say, but: {line}")).unwrap();
    }

    #[test]
    fn a_failed_program_is_quoted() {
        let mut shell = Command::new("sh");
        let error = checked("trying", "sh", shell.args(["-c", "echo one; echo two >&2; exit 3"]))
            .unwrap_err();
        assert!(error.to_string().contains("one\ntwo"), "{error}");
    }
}
