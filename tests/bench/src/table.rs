//! Table: a report as Markdown.

use std::fmt::Write as _;

use crate::report::{PartReport, Report, Row};

/// The whole report, ready for a README.
pub(crate) fn markdown(report: &Report) -> String {
    let mut text = String::new();
    let rounds = report.rounds;
    let quick = if report.quick { ", shortened: no figures to quote" } else { "" };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}. Medians of {rounds} interleaved rounds{quick}.", report.machine);
    for part in &report.parts {
        write_part(&mut text, part);
    }
    text
}

fn write_part(text: &mut String, part: &PartReport) {
    let _ = writeln!(text, "\n**{}**\n", part.title);
    text.push_str("| What | Guest | outsock | Compared with | Ratio | Target |\n");
    text.push_str("|---|---|---|---|---|---|\n");
    for row in &part.rows {
        let Row { what, guest, outsock, against, .. } = row;
        let ratio = row.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        let target = row.target.as_ref().map(|target| {
            format!("{}: {}", target.text, if target.met { "met" } else { "**missed**" })
        });
        let target = target.unwrap_or_default();
        let _ = writeln!(text, "| {what} | {guest} | {outsock} | {against} | {ratio} | {target} |");
    }
    for note in &part.notes {
        let _ = writeln!(text, "\n{note}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Target;

    #[test]
    fn a_row_has_as_many_cells_as_the_header() {
        let row = Row { target: Some(Target::at_least(0.8, 0.9)), ..Row::default() };
        let part = PartReport { rows: vec![row], ..PartReport::default() };
        let mut text = String::new();
        write_part(&mut text, &part);
        let lines = text.lines().filter(|line| line.starts_with('|'));
        let bars: Vec<_> = lines.map(|line| line.matches('|').count()).collect();
        assert_eq!(bars, [7, 7, 7]);
        assert!(text.contains(">= 0.8: met"));
    }
}
