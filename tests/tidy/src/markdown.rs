//! Markdown: what a document says that can be wrong.
//!
//! in: text; out: its links and its code spans, with their lines. Owner: the caller. Kept: what stands in
//! a code block is no link. Bound: one pass per file.

/// Something that a document mentions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mention {
    /// The line, from 1.
    pub line: usize,
    /// What it says.
    pub text: String,
}

/// Targets of `[text](target)` outside of code blocks.
#[must_use]
pub fn links(text: &str) -> Vec<Mention> {
    let mut found = Vec::new();
    for (line, content) in prose(text) {
        for piece in content.split("](").skip(1) {
            if let Some((target, _)) = piece.split_once(')') {
                found.push(Mention { line, text: target.to_owned() });
            }
        }
    }
    found
}

/// Texts between backticks, outside of code blocks.
#[must_use]
pub fn code_spans(text: &str) -> Vec<Mention> {
    let spans = prose(text).flat_map(|(line, content)| {
        let odd = content.split('`').skip(1).step_by(2);
        odd.map(move |span| Mention { line, text: span.to_owned() }).collect::<Vec<_>>()
    });
    spans.collect()
}

fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_block = false;
    text.lines().enumerate().filter_map(move |(number, line)| {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            return None;
        }
        (!in_block).then_some((number + 1, line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_code_are_found() {
        let text = "a [b](c.md) `d/e`\n```\n[no](link)\n```\n[f](g#h)";
        let mention = |line, text: &str| Mention { line, text: text.to_owned() };
        assert_eq!(links(text), [mention(1, "c.md"), mention(5, "g#h")]);
        assert_eq!(code_spans(text), [mention(1, "d/e")]);
    }
}
