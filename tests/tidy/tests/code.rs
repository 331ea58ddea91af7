//! Rules for the code: sizes, headers, words, unsafe.

#![allow(missing_docs, reason = "tests")]

use outsock_tidy::{File, code_lines, files, functions};

/// Lines of code per file, its own tests not counted.
const FILE_LINES_MAX: usize = 500;
/// Lines per function.
const FUNCTION_LINES_MAX: usize = 70;

/// Files over the limit, with what they may have until somebody cuts them. Only ever lower these.
const LONG_FILES: &[(&str, usize)] = &[];
/// Functions over the limit, by file and name. Only ever lower these.
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[];

/// Where `unsafe` may be said, and why.
const UNSAFE: &[(&str, &str)] = &[
    ("gateway/device/", "guest memory and vectored calls on it"),
    ("guest/vmrpc-c/src/sys.rs", "pointers of C programs"),
    ("guest/vmrpc/src/sys/", "event queues' pages, and vsock"),
    ("guest/agent/src/sys/", "raw system calls"),
    ("guest/agent/tests/", "raw system calls"),
    ("lab/boot/src/sys.rs", "system calls of the guest's monitor"),
    ("lab/boot/src/bin/outsock-guest-exec.rs", "runs in the guest with std only"),
    ("tests/virtual-guest/", "the driver's side of shared rings"),
    ("tests/bench/", "system calls that are measured"),
    ("tests/tidy/", "names it"),
];

fn rust() -> Vec<File> {
    files().into_iter().filter(|file| file.path.ends_with(".rs")).collect()
}

fn nothing(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn files_are_short() {
    let mut problems = Vec::new();
    for file in rust() {
        let lines = code_lines(&file.text);
        let exception = LONG_FILES.iter().find(|(path, _)| *path == file.path);
        let limit = exception.map_or(FILE_LINES_MAX, |(_, limit)| *limit);
        if lines > limit {
            problems
                .push(format!("{}: {lines} lines, at most {limit}: one file, one noun", file.path));
        } else if exception.is_some() && lines < limit {
            problems.push(format!("{}: {lines} lines now: lower its exception", file.path));
        }
    }
    nothing(problems);
}

#[test]
fn functions_are_short() {
    let mut problems = Vec::new();
    for file in rust() {
        for function in functions(&file.text) {
            let (path, name, lines) = (&file.path, &function.name, function.lines);
            let exception =
                LONG_FUNCTIONS.iter().find(|(file, long, _)| file == path && long == name);
            let limit = exception.map_or(FUNCTION_LINES_MAX, |(_, _, limit)| *limit);
            if lines > limit {
                let line = function.line;
                problems.push(format!("{path}:{line}: {name} has {lines} lines, at most {limit}"));
            }
        }
    }
    nothing(problems);
}

#[test]
fn every_module_says_what_it_is() {
    let headless = rust().into_iter().filter(|file| !file.text.starts_with("//!"));
    nothing(headless.map(|file| format!("{}: opens without a //! header", file.path)).collect());
}

#[test]
fn nothing_is_left_to_do() {
    let unfinished = ["FIX", "TO", "XX"].map(|word| match word {
        "FIX" => "FIXME".to_owned(),
        "TO" => ["TO", "DO"].concat(),
        _ => ["XX", "X"].concat(),
    });
    let calls = [["todo", "!("].concat(), ["unimplemented", "!("].concat()];
    let mut problems = Vec::new();
    for file in rust().iter().filter(|file| !file.path.starts_with("tests/tidy/")) {
        for (number, line) in file.text.lines().enumerate() {
            // A doc example may leave something to its reader.
            let example =
                line.trim_start().starts_with("//! #") || line.trim_start().starts_with("/// #");
            let mut words = line.split(|letter: char| !letter.is_alphanumeric());
            if example {
                continue;
            }
            if words.any(|word| unfinished.iter().any(|bad| bad == word))
                || calls.iter().any(|call| line.contains(call.as_str()))
            {
                problems.push(format!("{}:{}: unfinished", file.path, number + 1));
            }
        }
    }
    nothing(problems);
}

#[test]
fn unsafe_is_where_it_belongs() {
    let mut problems = Vec::new();
    for file in rust() {
        if UNSAFE.iter().any(|(place, _)| file.path.starts_with(place)) {
            continue;
        }
        for (number, line) in file.text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if code.contains("unsafe {")
                || code.contains("unsafe fn")
                || code.contains("unsafe impl")
            {
                problems.push(format!("{}:{}: unsafe outside its places", file.path, number + 1));
            }
        }
    }
    nothing(problems);
}

#[test]
fn lib_and_bin_roots_of_safe_crates_forbid_unsafe() {
    let roots = rust().into_iter().filter(|file| {
        let is_root = file.path.ends_with("/src/lib.rs") || file.path.ends_with("/src/main.rs");
        let may = UNSAFE.iter().any(|(place, _)| {
            let package = file.path.split("/src/").next().unwrap_or_default();
            place.starts_with(package)
        });
        is_root && !may
    });
    let lax = roots.filter(|file| !file.text.contains("#![forbid(unsafe_code)]"));
    nothing(lax.map(|file| format!("{}: add #![forbid(unsafe_code)]", file.path)).collect());
}
