//! Documents: what they claim is there is there.

#![allow(missing_docs, reason = "tests")]

use outsock_tidy::{File, code_spans, files, links, root};

const HEADINGS_ONCE: [&str; 4] =
    ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"];

fn markdown() -> Vec<File> {
    files().into_iter().filter(|file| file.path.ends_with(".md")).collect()
}

fn document(path: &str) -> String {
    let found = files().into_iter().find(|file| file.path == path);
    found.map(|file| file.text).unwrap_or_else(|| panic!("there is no {path}"))
}

fn nothing(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn links_lead_somewhere() {
    let mut problems = Vec::new();
    for file in markdown() {
        let folder = root().join(&file.path).parent().map(std::path::Path::to_owned);
        for link in links(&file.text) {
            let target = link.text.split('#').next().unwrap_or_default();
            let outside = target.is_empty() || target.contains("://");
            if !outside && !folder.as_ref().is_some_and(|folder| folder.join(target).exists()) {
                problems.push(format!("{}:{}: dead link {}", file.path, link.line, link.text));
            }
        }
    }
    nothing(problems);
}

/// A code span that looks like a path of this workspace is one.
#[test]
fn paths_exist() {
    let folders = ["configs/", "gateway/", "guest/", "lab/", "tests/", "transports/", "xtask/"];
    let short = ["core/", "device/"];
    let mut problems = Vec::new();
    for file in markdown() {
        let folder = root().join(&file.path).parent().map(std::path::Path::to_owned);
        for span in code_spans(&file.text) {
            let text = span.text.trim_end_matches('/');
            let plain =
                text.chars().all(|letter| letter.is_alphanumeric() || "/._-".contains(letter));
            let is_path = plain && folders.iter().any(|folder| text.starts_with(folder));
            let beside = folder.as_ref().is_some_and(|folder| folder.join(text).exists());
            let exists = beside || root().join(text).exists();
            if is_path && !exists {
                problems.push(format!("{}:{}: there is no {text}", file.path, span.line));
            }
            // The architecture calls files of the gateway by their crate's folder.
            if let Some((folder, rest)) = text.split_once('/')
                && plain
                && short.contains(&format!("{folder}/").as_str())
                && !root().join("gateway").join(folder).join("src").join(rest).exists()
            {
                problems.push(format!("{}:{}: there is no {text}", file.path, span.line));
            }
        }
    }
    nothing(problems);
}

#[test]
fn the_architecture_knows_every_crate() {
    let architecture = document("ARCHITECTURE.md");
    let manifests = files().into_iter().filter(|file| file.path.ends_with("/Cargo.toml"));
    let unknown = manifests.filter_map(|file| {
        let folder = file.path.trim_end_matches("/Cargo.toml").to_owned();
        (!architecture.contains(&format!("`{folder}`"))).then_some(folder)
    });
    nothing(unknown.map(|folder| format!("ARCHITECTURE.md: no word of `{folder}`")).collect());
}

#[test]
fn the_readmes_commands_are_there() {
    let (readme, cli) = (document("README.md"), document("xtask/src/cli.rs"));
    let gateway = document("gateway/daemon/src/cli.rs");
    let mut problems = Vec::new();
    let commands = |program: &str| -> Vec<String> {
        let uses = readme.split(program).skip(1);
        let words = uses.filter_map(|rest| {
            let rest = rest.strip_prefix(' ')?;
            let word: String = rest.chars().take_while(char::is_ascii_lowercase).collect();
            (!word.is_empty()).then_some(word)
        });
        words.collect()
    };
    let has = |source: &str, word: &str| {
        let (first, rest) = word.split_at(1);
        source.contains(&format!(
            "    {}{rest}({}{rest})",
            first.to_uppercase(),
            first.to_uppercase()
        ))
    };
    let xtask = commands("cargo xtask");
    assert!(xtask.contains(&"demo".to_owned()) && xtask.contains(&"test".to_owned()), "{xtask:?}");
    for word in xtask {
        if !has(&cli, &word) {
            problems.push(format!("README.md: cargo xtask has no {word}"));
        }
    }
    for word in
        commands("outsock-gateway").iter().filter(|word| !["makes"].contains(&word.as_str()))
    {
        if !has(&gateway, word) {
            problems.push(format!("README.md: outsock-gateway has no {word}"));
        }
    }
    nothing(problems);
}

#[test]
fn one_title_per_document() {
    let mut problems = Vec::new();
    for path in HEADINGS_ONCE {
        let text = document(path);
        let mut in_block = false;
        let titles = text.lines().filter(|line| {
            in_block ^= line.starts_with("```");
            !in_block && line.starts_with("# ")
        });
        if titles.count() != 1 {
            problems.push(format!("{path}: it should have one title"));
        }
    }
    nothing(problems);
}

/// A package comes from wherever this machine's tools are set up to take it from.
#[test]
fn no_host_of_a_registry_is_named() {
    let hosts = [["crates", ".io"], ["debian", ".org"], ["pypi", ".org"], ["npmjs", ".org"]];
    let hosts = hosts.map(|parts| parts.concat());
    let mut problems = Vec::new();
    for file in files().iter().filter(|file| file.path != "Cargo.lock") {
        for (number, line) in file.text.lines().enumerate() {
            if let Some(host) = hosts.iter().find(|host| line.contains(host.as_str())) {
                problems.push(format!("{}:{}: names {host}", file.path, number + 1));
            }
        }
    }
    nothing(problems);
}
