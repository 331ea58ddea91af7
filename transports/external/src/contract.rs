//! Contract: the lines that a pluggable transport says on its standard output (pt-spec, 3.3).
//!
//! in: a line; out: what it means. Pure; any bytes are fine.

use std::net::SocketAddr;

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// The version that it speaks.
    Version(String),
    /// It cannot work, and why.
    Failed(String),
    /// A method is ready: where, and what a client has to say.
    Method { name: String, protocol: Option<String>, at: Option<SocketAddr>, arguments: String },
    /// There are no more methods.
    Done,
    /// For the log.
    Log(String),
    /// Something else: the contract says to ignore it.
    Unknown,
}

/// Reads a line.
pub(crate) fn line(text: &str) -> Line {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let rest = rest.trim();
    match word {
        "VERSION" => Line::Version(rest.to_owned()),
        "VERSION-ERROR" | "ENV-ERROR" | "PROXY-ERROR" | "CMETHOD-ERROR" | "SMETHOD-ERROR" => {
            Line::Failed(format!("{word} {rest}"))
        }
        "CMETHOD" => {
            let mut words = rest.split_whitespace();
            let name = words.next().unwrap_or_default().to_owned();
            let protocol = words.next().map(str::to_owned);
            let at = words.next().and_then(|at| at.parse().ok());
            Line::Method { name, protocol, at, arguments: String::new() }
        }
        "SMETHOD" => {
            let mut words = rest.split_whitespace();
            let name = words.next().unwrap_or_default().to_owned();
            let at = words.next().and_then(|at| at.parse().ok());
            let arguments = words.find_map(|word| word.strip_prefix("ARGS:")).unwrap_or_default();
            Line::Method { name, protocol: None, at, arguments: arguments.to_owned() }
        }
        "CMETHODS" | "SMETHODS" if rest == "DONE" => Line::Done,
        "LOG" | "STATUS" => Line::Log(format!("{word} {rest}")),
        _ => Line::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_obfs4proxy_says_them() {
        assert_eq!(line("VERSION 1"), Line::Version("1".to_owned()));
        let at = Some("127.0.0.1:3000".parse().unwrap());
        let method = line("CMETHOD obfs4 socks5 127.0.0.1:3000");
        let expected = Line::Method {
            name: "obfs4".to_owned(),
            protocol: Some("socks5".to_owned()),
            at,
            arguments: String::new(),
        };
        assert_eq!(method, expected);
        let method = line("SMETHOD obfs4 127.0.0.1:3000 ARGS:cert=a/b+c,iat-mode=0");
        let expected = Line::Method {
            name: "obfs4".to_owned(),
            protocol: None,
            at,
            arguments: "cert=a/b+c,iat-mode=0".to_owned(),
        };
        assert_eq!(method, expected);
        assert_eq!(line("CMETHODS DONE"), Line::Done);
        assert!(matches!(line("CMETHOD-ERROR x no such method"), Line::Failed(_)));
        for odd in ["", " ", "CMETHODS", "CMETHODS LATER", "\u{1b}[31m", "HELLO 1"] {
            assert_eq!(line(odd), Line::Unknown, "{odd:?}");
        }
        assert!(matches!(line("CMETHOD"), Line::Method { at: None, .. }));
        assert!(matches!(line("CMETHOD x socks5 here"), Line::Method { at: None, .. }));
    }
}
