//! Tree: the project's files.
//!
//! in: the workspace's folder; out: every text file with its path from there. Owner: the caller. Kept:
//! sorted, so that messages come in the same order everywhere. Bound: [`FILES_MAX`].

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that are not the project's text.
const SKIPPED: [&str; 3] = ["target", "corpus", "node_modules"];
/// Hidden names that are.
const HIDDEN: [&str; 2] = [".ci", ".cargo"];
/// Far above what the project has; a loop of symbolic links ends here.
const FILES_MAX: usize = 20_000;

/// A text file.
#[derive(Clone, Debug)]
pub struct File {
    /// From the workspace's root, with `/`.
    pub path: String,
    /// All of it.
    pub text: String,
}

/// The workspace's root.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every text file of the project.
///
/// # Panics
/// If a folder cannot be read: then nothing can be said about the tree.
#[must_use]
pub fn files() -> Vec<File> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries.flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let hidden = name.starts_with('.') && !HIDDEN.contains(&name.as_str());
            if hidden || SKIPPED.contains(&name.as_str()) || path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path)
                && let Ok(inside) = path.strip_prefix(&root)
            {
                found.push(File { path: inside.to_string_lossy().into_owned(), text });
            }
            assert!(found.len() < FILES_MAX, "the tree has no end");
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}
