//! Source: sizes of Rust files and of their functions.
//!
//! in: text that rustfmt has laid out; out: counts. Owner: the caller. Kept: rustfmt puts the closing
//! brace of an item below its first column, so no parser is needed. Bound: one pass per file.

/// A function and how many lines it has, its first and its last included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The line where it starts, from 1.
    pub line: usize,
    /// Its lines.
    pub lines: usize,
}

/// Lines before the file's own tests.
#[must_use]
pub fn code_lines(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| {
        pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
    });
    tests.unwrap_or(lines.len())
}

/// Its functions that have a body of more than one line.
#[must_use]
pub fn functions(text: &str) -> Vec<Function> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indentation = &line[..line.len() - line.trim_start().len()];
        let (end, without_body) = (format!("{indentation}}}"), line.trim_end().ends_with(';'));
        if without_body || line.trim_end().ends_with('}') {
            continue;
        }
        let rest = lines[number..].iter().position(|line| *line == end);
        if let Some(length) = rest {
            found.push(Function { name, line: number + 1, lines: length + 1 });
        }
    }
    found
}

/// The name, if the line starts a function.
fn function_name(line: &str) -> Option<String> {
    let mut words = line.trim_start().split(' ').peekable();
    while words.peek().is_some_and(|word| {
        matches!(*word, "pub" | "async" | "const" | "unsafe" | "extern" | "\"C\"")
            || word.starts_with("pub(")
    }) {
        words.next();
    }
    let name = (words.next() == Some("fn")).then(|| words.next()).flatten()?;
    let end = name.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
    Some(name[..end.unwrap_or(name.len())].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
//! Header.

pub(crate) async fn two(
) {
}

trait Short {
    fn declared(&self);
    fn one(&self) {}
    fn three(&self) {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
}
";

    #[test]
    fn functions_and_code_are_measured() {
        let found: Vec<(String, usize)> =
            functions(TEXT).into_iter().map(|function| (function.name, function.lines)).collect();
        assert_eq!(found, [("two".to_owned(), 3), ("three".to_owned(), 3)]);
        assert_eq!(code_lines(TEXT), 14);
    }
}
