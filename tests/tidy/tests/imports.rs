//! Who may import whom, by the manifests.

#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, reason = "a manifest that does not parse fails the test")]

use std::collections::BTreeMap;

use outsock_tidy::files;

/// The crates of the product: what each may depend on of ours. A crate that is not here is not allowed.
const RINGS: &[(&str, &[&str])] = &[
    ("outsock-vmrpc", &[]),
    ("outsock-vmrpc-c", &["outsock-vmrpc"]),
    ("outsock-core", &["outsock-vmrpc"]),
    ("outsock-transport", &["outsock-vmrpc"]),
    ("outsock-peer", &["outsock-transport", "outsock-vmrpc"]),
    ("outsock-overlay-core", &["outsock-core", "outsock-peer", "outsock-vmrpc"]),
    ("outsock-device", &["outsock-core", "outsock-vmrpc"]),
    // It speaks SOCKS5 to its process, over the host's TCP.
    (
        "outsock-transport-external",
        &["outsock-transport", "outsock-transport-direct", "outsock-transport-proxy"],
    ),
    ("outsock-agent", &["outsock-vmrpc"]),
    ("outsock-boot", &[]),
    ("outsock-link", &[]),
    ("outsock-site", &[]),
];
/// Where everything of the gateway meets; nobody imports it.
const DAEMON: &str = "outsock-gateway";
/// Every transport: only the interface, what gateways share among each other, and its own library.
const TRANSPORT_PREFIX: &str = "outsock-transport-";
const FOR_TRANSPORTS: [&str; 4] =
    ["outsock-transport", "outsock-peer", "outsock-overlay-core", "outsock-vmrpc"];
/// Tests and tools: the product may not depend on them.
const TOOL_FOLDERS: [&str; 4] = ["tests/", "xtask/", "lab/", "fuzz/"];
/// A workspace of its own, as cargo-fuzz wants it.
const FUZZ: &str = "fuzz/Cargo.toml";

#[derive(Debug)]
struct Package {
    path: String,
    name: String,
    ours: Vec<String>,
}

fn packages() -> Vec<Package> {
    let manifests = files().into_iter().filter(|file| file.path.ends_with("/Cargo.toml"));
    let read = |file: outsock_tidy::File| {
        let manifest: toml::Table = file.text.parse().unwrap();
        let name = manifest["package"]["name"].as_str().unwrap().to_owned();
        let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table);
        let ours = dependencies.into_iter().flat_map(toml::Table::keys);
        let ours = ours.filter(|name| name.starts_with("outsock")).cloned().collect();
        Package { path: file.path, name, ours }
    };
    manifests.map(read).collect()
}

#[test]
fn imports_point_inwards() {
    let packages = packages();
    let folder: BTreeMap<&str, &str> =
        packages.iter().map(|package| (package.name.as_str(), package.path.as_str())).collect();
    let is_tool = |path: &str| TOOL_FOLDERS.iter().any(|folder| path.starts_with(folder));
    let mut problems = Vec::new();
    for package in &packages {
        let allowed = RINGS.iter().find(|(name, _)| *name == package.name).map(|(_, may)| *may);
        for ours in &package.ours {
            let fine = if let Some(may) = allowed {
                may.contains(&ours.as_str())
            } else if package.name.starts_with(TRANSPORT_PREFIX) {
                FOR_TRANSPORTS.contains(&ours.as_str())
            } else if package.name == DAEMON {
                folder.get(ours.as_str()).is_some_and(|path| !is_tool(path))
            } else {
                is_tool(&package.path) || package.path.starts_with("examples/")
            };
            if !fine || (ours == DAEMON) {
                problems.push(format!("{} may not depend on {ours}", package.name));
            }
        }
        let known = allowed.is_some()
            || package.name.starts_with(TRANSPORT_PREFIX)
            || package.name == DAEMON
            || is_tool(&package.path)
            || package.path.starts_with("examples/");
        if !known {
            problems.push(format!("{}: say in tests/tidy what it may import", package.name));
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn versions_stand_in_one_list() {
    let mut problems = Vec::new();
    let manifests = files().into_iter().filter(|file| file.path.ends_with("/Cargo.toml"));
    for file in manifests.filter(|file| file.path != FUZZ) {
        let manifest: toml::Table = file.text.parse().unwrap();
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let table = manifest.get(kind).and_then(toml::Value::as_table);
            for (name, value) in table.into_iter().flatten() {
                let inherited = value.get("workspace").and_then(toml::Value::as_bool);
                if inherited != Some(true) {
                    problems.push(format!("{}: {name}: use workspace = true", file.path));
                }
            }
        }
        let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        if lints.and_then(toml::Value::as_bool) != Some(true) {
            problems.push(format!("{}: [lints] workspace = true is missing", file.path));
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}
