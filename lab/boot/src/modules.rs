//! Kernel modules: which files a set of names needs, in the order in which they must be loaded.
//!
//! Enters: the module tree of an unpacked kernel package. Leaves: uncompressed module files, dependencies first.
//! Owns nothing. Invariant: a module comes after all that its own `.modinfo` depends on; one that is built into
//! the kernel has no file. Bound: each module is visited once.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why modules could not be collected.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// The package holds another set of modules than this crate was written for.
    #[error(
        "the kernel package has no module \"{name}\", neither as a file nor built in: {directory} seems damaged, remove it and prepare the image again"
    )]
    Missing {
        /// The module's name.
        name: String,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// `xz` failed or is not there.
    #[error("cannot decompress {path}: {reason}; install the package xz-utils")]
    Decompress {
        /// The module's file.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// The tree cannot be read.
    #[error("cannot read kernel modules in {path}: {source}")]
    Read {
        /// File or directory.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
}

/// A module ready to be loaded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// The module tree of one kernel release (the directory that holds `kernel/` and `modules.builtin`).
#[derive(Debug)]
pub(crate) struct ModuleTree {
    directory: PathBuf,
    files: HashMap<String, PathBuf>,
    built_in: Vec<String>,
}

/// `net/9p/9pnet_virtio.ko.xz` and `9pnet-virtio` are both `9pnet_virtio`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

impl ModuleTree {
    pub(crate) fn open(directory: &Path) -> Result<Self, ModuleError> {
        let mut files = HashMap::new();
        let mut pending = vec![directory.join("kernel")];
        while let Some(path) = pending.pop() {
            let failed = |source| ModuleError::Read { path: path.clone(), source };
            for entry in fs::read_dir(&path).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if entry.file_type().map_err(failed)?.is_dir() {
                    pending.push(entry.path());
                } else if name.contains(".ko") {
                    files.insert(module_name(&name), entry.path());
                }
            }
        }
        let path = directory.join("modules.builtin");
        let built_in =
            fs::read_to_string(&path).map_err(|source| ModuleError::Read { path, source })?;
        let built_in = built_in.lines().map(module_name).collect();
        Ok(Self { directory: directory.to_owned(), files, built_in })
    }

    /// `names` and all that they depend on, in load order.
    pub(crate) fn collect(&self, names: &[&str]) -> Result<Vec<Module>, ModuleError> {
        let mut ordered = Vec::new();
        let mut visited = Vec::new();
        for name in names {
            self.visit(&module_name(name), &mut visited, &mut ordered)?;
        }
        Ok(ordered)
    }

    fn visit(
        &self,
        name: &str,
        visited: &mut Vec<String>,
        ordered: &mut Vec<Module>,
    ) -> Result<(), ModuleError> {
        if visited.iter().any(|known| known == name)
            || self.built_in.iter().any(|known| known == name)
        {
            return Ok(());
        }
        visited.push(name.to_owned());
        let missing =
            || ModuleError::Missing { name: name.to_owned(), directory: self.directory.clone() };
        let bytes = read_module(self.files.get(name).ok_or_else(missing)?)?;
        for dependency in dependencies(&bytes) {
            self.visit(&dependency, visited, ordered)?;
        }
        ordered.push(Module { name: name.to_owned(), bytes });
        Ok(())
    }
}

fn read_module(path: &Path) -> Result<Vec<u8>, ModuleError> {
    if path.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(path)
            .map_err(|source| ModuleError::Read { path: path.to_owned(), source });
    }
    let failed = |reason: String| ModuleError::Decompress { path: path.to_owned(), reason };
    let output = Command::new("xz").args(["-d", "-c", "--"]).arg(path).output();
    let output = output.map_err(|error| failed(format!("cannot start xz: {error}")))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(output.stdout)
}

/// The `depends=a,b` entry of the module's `.modinfo`: a string after a zero byte.
fn dependencies(bytes: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = bytes.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = bytes[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value.split(',').filter(|name| !name.is_empty()).map(module_name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first_and_once() {
        let directory = tempfile::tempdir().unwrap();
        let kernel = directory.path().join("kernel/net");
        fs::create_dir_all(&kernel).unwrap();
        fs::write(kernel.join("top.ko"), b"ELF\0depends=left-side,right,core\0name=top\0").unwrap();
        fs::write(kernel.join("left-side.ko"), b"ELF\0depends=bottom\0").unwrap();
        fs::write(kernel.join("right.ko"), b"ELF\0depends=bottom\0").unwrap();
        fs::write(kernel.join("bottom.ko"), b"ELF\0depends=\0").unwrap();
        fs::write(directory.path().join("modules.builtin"), "kernel/lib/core.ko\n").unwrap();
        let tree = ModuleTree::open(directory.path()).unwrap();
        let names = |names: &[&str]| -> Vec<String> {
            tree.collect(names).unwrap().into_iter().map(|module| module.name).collect()
        };
        assert_eq!(names(&["bottom", "top"]), ["bottom", "left_side", "right", "top"]);
        assert_eq!(names(&["core"]), [""; 0]);
        assert!(tree.collect(&["absent"]).unwrap_err().to_string().contains("absent"));
    }
}
