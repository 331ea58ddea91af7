//! Document: `docs/socket-semantics.md` as data, and whether a run agrees with it.
//!
//! in: the document's tables, the cases and [`Difference`]s of a run; out: what is wrong. Owner: the caller. Kept:
//! the differences of a run are exactly the documented ones: none is missing here, none is missing there. Bound: the
//! document.
//!
//! Two kinds of tables count, by their first heading. `Call`: what there is, in which state, backed by which cases.
//! `Difference`: cases and keys (with `*` for any), where (`all`, or kernels and families), what TCP and what outsock
//! says, and why.

use crate::differential::Difference;

/// The state of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As TCP.
    Done,
    /// As TCP but for documented differences.
    Inexact,
    /// Not TCP's, and not meant to be.
    OutOfScope,
}

/// A row of a `Call` table.
#[derive(Clone, Debug)]
pub struct Call {
    line: usize,
    /// See [`State`].
    pub state: State,
    /// Patterns of case names.
    pub cases: Vec<String>,
}

/// A row of a `Difference` table.
#[derive(Clone, Debug)]
pub struct Documented {
    line: usize,
    case: String,
    keys: Vec<String>,
    place: Vec<String>,
    tcp: String,
    outsock: String,
}

/// The whole document.
#[derive(Clone, Debug, Default)]
pub struct Document {
    /// What there is.
    pub calls: Vec<Call>,
    /// Where it is not TCP's.
    pub differences: Vec<Documented>,
}

/// Names of the kernels as the document writes them.
const KERNELS: [&str; 3] = ["6.1", "6.12", "7.2"];
const FAMILIES: [&str; 3] = ["v4", "v6", "mapped"];
/// A difference that depends on timing: it need not show.
const SOMETIMES: &str = "sometimes";

impl Document {
    /// Reads it.
    ///
    /// # Errors
    /// The first row that cannot be understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut document = Self::default();
        let mut heading = String::new();
        for (number, line) in text.lines().enumerate() {
            let cells: Vec<&str> =
                match line.strip_prefix('|').and_then(|row| row.strip_suffix('|')) {
                    Some(row) => row.split('|').map(str::trim).collect(),
                    None => {
                        heading.clear();
                        continue;
                    }
                };
            if heading.is_empty() {
                cells[0].clone_into(&mut heading);
            } else if !cells[0].starts_with("---") {
                let line = number + 1;
                let wrong = |what: &str| format!("line {line}: {what}");
                match heading.as_str() {
                    "Call" => document.calls.push(call(line, &cells).map_err(|what| wrong(&what))?),
                    "Difference" => {
                        document
                            .differences
                            .push(difference(line, &cells).map_err(|what| wrong(&what))?);
                    }
                    _ => {}
                }
            }
        }
        Ok(document)
    }

    /// What the document says against itself.
    #[must_use]
    pub fn contradictions(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for call in &self.calls {
            let named = self.differences.iter().any(|row| {
                call.cases.iter().any(|case| covers(case, &row.case) || covers(&row.case, case))
            });
            match call.state {
                State::Done if named => {
                    wrong.push(format!("line {}: done, but a difference is listed", call.line));
                }
                State::Inexact if !named => {
                    wrong.push(format!("line {}: inexact, but no difference is listed", call.line));
                }
                State::Done | State::Inexact | State::OutOfScope => {}
            }
        }
        wrong
    }

    /// What is wrong with the document or with the run: cases that no row or two rows name, rows without cases.
    #[must_use]
    pub fn unbacked(&self, cases: &[&str]) -> Vec<String> {
        let mut wrong = Vec::new();
        for case in cases {
            let rows =
                self.calls.iter().filter(|row| row.cases.iter().any(|name| covers(name, case)));
            match rows.count() {
                1 => {}
                count => wrong.push(format!("{count} rows name the case {case}")),
            }
        }
        for row in &self.calls {
            for name in &row.cases {
                if !cases.iter().any(|case| covers(name, case)) {
                    wrong.push(format!("line {}: no case {name}", row.line));
                }
            }
        }
        wrong
    }

    /// Differences that no row documents, and rows that the run on `kernel` does not show.
    #[must_use]
    pub fn disagreements(&self, kernel: &str, found: &[Difference]) -> Vec<String> {
        let mut wrong = Vec::new();
        for difference in found {
            if !self.differences.iter().any(|row| row.matches(kernel, difference)) {
                wrong.push(format!("not documented: {difference}"));
            }
        }
        for row in &self.differences {
            if !row.is_about(kernel) || row.place.iter().any(|word| word == SOMETIMES) {
                continue;
            }
            for key in &row.keys {
                let one = Documented { keys: vec![key.clone()], ..row.clone() };
                if !found.iter().any(|difference| one.matches(kernel, difference)) {
                    let Documented { line, case, .. } = row;
                    wrong.push(format!("line {line}: {case} {key} does not differ so on {kernel}"));
                }
            }
        }
        wrong
    }
}

impl Documented {
    fn is_about(&self, kernel: &str) -> bool {
        let mut named =
            self.place.iter().filter(|word| KERNELS.contains(&word.as_str())).peekable();
        named.peek().is_none() || named.any(|word| word == kernel)
    }

    fn matches(&self, kernel: &str, difference: &Difference) -> bool {
        let mut families =
            self.place.iter().filter(|word| FAMILIES.contains(&word.as_str())).peekable();
        self.is_about(kernel)
            && (families.peek().is_none() || families.any(|word| *word == difference.family))
            && covers(&self.case, &difference.case)
            && self.keys.iter().any(|key| covers(key, &difference.key))
            && covers(&self.tcp, &difference.tcp)
            && covers(&self.outsock, &difference.outsock)
    }
}

fn call(line: usize, cells: &[&str]) -> Result<Call, String> {
    let [_, _, _, state, _, cases] = cells else {
        return Err(format!("{} cells, not 6", cells.len()));
    };
    let state = match *state {
        "done" => State::Done,
        "inexact" => State::Inexact,
        "out of scope" => State::OutOfScope,
        other => return Err(format!("the state {other:?}")),
    };
    let cases = spans(cases);
    if cases.is_empty() && state != State::OutOfScope {
        return Err("no case backs it".to_owned());
    }
    Ok(Call { line, state, cases })
}

fn difference(line: usize, cells: &[&str]) -> Result<Documented, String> {
    let [what, place, tcp, outsock, why] = cells else {
        return Err(format!("{} cells, not 5", cells.len()));
    };
    let mut keys = spans(what);
    if keys.len() < 2 || why.is_empty() {
        return Err("a case, its keys and a reason are needed".to_owned());
    }
    let case = keys.remove(0);
    let place: Vec<String> = place.split(',').map(|word| word.trim().to_owned()).collect();
    let known = |word: &String| {
        ["all", SOMETIMES].iter().chain(&KERNELS).chain(&FAMILIES).any(|known| known == word)
    };
    if let Some(word) = place.iter().find(|word| !known(word)) {
        return Err(format!("the place {word:?}"));
    }
    let value = |cell: &str| spans(cell).pop().unwrap_or_else(|| "*".to_owned());
    Ok(Documented { line, case, keys, place, tcp: value(tcp), outsock: value(outsock) })
}

/// Texts between backticks.
fn spans(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether `text` is what `pattern` says, in which `*` stands for anything.
fn covers(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut last = None;
    for piece in pieces {
        if let Some(piece) = last.replace(piece) {
            let Some((_, after)) = rest.split_once(piece) else { return false };
            rest = after;
        }
    }
    last.map_or(rest.is_empty(), |last| rest.ends_with(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
| Call | Families | Transports | State | What | Cases |
|---|---|---|---|---|---|
| connect | all | direct | done | as TCP | `connect.good` |
| reset | all | direct | inexact | EOF | `end.reset-*` |
| raw | - | - | out of scope | no | |

| Difference | Where | TCP | outsock | Why |
|---|---|---|---|---|
| `end.reset-recv` `recv` `peek` | all | `ECONNRESET` | `0` | vsock |
| `end.reset-send` `send*` | 6.1, v4 | `E*` | | old |
";

    fn difference(case: &str, family: &str, key: &str, tcp: &str, outsock: &str) -> Difference {
        let [case, family, key, tcp, outsock] =
            [case, family, key, tcp, outsock].map(str::to_owned);
        Difference { case, family, key, tcp, outsock }
    }

    #[test]
    fn a_run_agrees_only_with_exactly_what_is_documented() {
        let document = Document::parse(TEXT).unwrap();
        let recv = difference("end.reset-recv", "v6", "recv", "ECONNRESET", "0");
        let peek = difference("end.reset-recv", "v6", "peek", "ECONNRESET", "0");
        let send = difference("end.reset-send", "v4", "send-2", "EPIPE", "1");
        let both = [recv.clone(), peek];
        assert!(document.disagreements("7.2", &both).is_empty());
        assert_eq!(document.disagreements("7.2", std::slice::from_ref(&recv)).len(), 1);
        assert_eq!(document.disagreements("6.1", &both).len(), 1);
        let with_send = [&both[..], std::slice::from_ref(&send)].concat();
        assert!(document.disagreements("6.1", &with_send).is_empty());
        assert_eq!(document.disagreements("7.2", &with_send).len(), 1);
        let other = Difference { outsock: "1".to_owned(), ..recv };
        assert_eq!(document.disagreements("7.2", &[other]).len(), 3);
    }

    #[test]
    fn every_case_has_a_row_and_every_row_a_case() {
        let document = Document::parse(TEXT).unwrap();
        assert!(document.contradictions().is_empty());
        let cases = ["connect.good", "end.reset-recv"];
        assert!(document.unbacked(&cases).is_empty());
        assert_eq!(document.unbacked(&["connect.good", "x"]).len(), 2);
        let lies = TEXT.replace("| done |", "| inexact |").replace("inexact | EOF", "done | EOF");
        assert_eq!(Document::parse(&lies).unwrap().contradictions().len(), 2);
    }

    #[test]
    fn the_document_does_not_contradict_itself() {
        let text = include_str!("../../../docs/socket-semantics.md");
        let document = Document::parse(text).unwrap();
        assert_eq!(document.contradictions(), Vec::<String>::new());
        assert!(document.calls.len() > 50 && document.differences.len() > 50);
    }

    #[test]
    fn stars_stand_for_anything() {
        assert!(
            covers("a*c*e", "abcde") && covers("*", "") && covers("a", "a") && covers("*b", "aab")
        );
        assert!(!covers("a*c", "ab") && !covers("a", "ab") && !covers("ab*b", "ab"));
    }

    #[test]
    fn rows_that_cannot_be_understood_are_told() {
        for (from, to) in
            [("| done |", "| nearly |"), ("`connect.good` |", "|"), ("| 6.1, v4 |", "| 5.10 |")]
        {
            assert!(Document::parse(&TEXT.replace(from, to)).is_err(), "{to}");
        }
    }
}
