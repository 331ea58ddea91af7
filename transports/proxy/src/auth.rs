//! Auth: what a proxy is told about who comes.
//!
//! Plain values. Never shown: `Debug` hides what is secret.

use std::fmt;

use crate::limits::FIELD_BYTES_MAX;

/// See the module.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    /// Nothing.
    None,
    /// A name and a password (RFC 1929; Basic, RFC 7617).
    Password {
        /// 1 to 255 bytes.
        user: String,
        /// 1 to 255 bytes.
        password: String,
    },
}

/// A user name or a password that no proxy takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// The user name.
    User,
    /// The password.
    Password,
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let which = match self {
            Self::User => "a user name",
            Self::Password => "a password",
        };
        write!(f, "{which} has 1 to {FIELD_BYTES_MAX} bytes and no control characters")
    }
}

impl std::error::Error for AuthError {}

impl Auth {
    /// A user name and a password that every proxy can take.
    pub fn password(user: &str, password: &str) -> Result<Self, AuthError> {
        let fits = |text: &str| {
            (1..=FIELD_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control)
        };
        // The colon ends the user name in Basic.
        if !fits(user) || user.contains(':') {
            return Err(AuthError::User);
        }
        if !fits(password) {
            return Err(AuthError::Password);
        }
        Ok(Self::Password { user: user.to_owned(), password: password.to_owned() })
    }

    /// Arguments of a pluggable transport, in the two fields of SOCKS5 (pt-spec, 3.5). Any bytes but
    /// zero.
    pub fn arguments(text: &str) -> Result<Self, AuthError> {
        let mut cut = text.len().min(FIELD_BYTES_MAX);
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        let (user, rest) = text.split_at(cut);
        if user.is_empty() || rest.len() > FIELD_BYTES_MAX {
            return Err(AuthError::User);
        }
        // The field may not be empty; a zero byte stands for that.
        let password = if rest.is_empty() { "\0" } else { rest };
        Ok(Self::Password { user: user.to_owned(), password: password.to_owned() })
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Password { .. } => "Password { .. }",
        })
    }
}
