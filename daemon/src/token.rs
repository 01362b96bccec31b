//! The secret that activators, the controller and its clients share.

use std::sync::Arc;

/// A shared token.
#[derive(Clone)]
pub struct Token(Arc<str>);

impl Token {
    /// A token; `None` when the text is empty: an empty secret is none. Space around it (a file's last line end) is not
    /// part of it.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.into()))
    }

    /// As text, for who has to show it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether these bytes are it. Takes as long wherever the two differ; their lengths are no secret.
    #[must_use]
    pub fn is(&self, shown: &[u8]) -> bool {
        let token = self.0.as_bytes();
        let differ = shown.iter().zip(token).fold(0, |sum, (a, b)| sum | (a ^ b));
        shown.len() == token.len() && std::hint::black_box(differ) == 0
    }

    /// Whether a header `authorization: Bearer TOKEN` carries it.
    #[must_use]
    pub fn opens(&self, header: &[u8]) -> bool {
        header
            .split_at_checked(b"Bearer ".len())
            .is_some_and(|(scheme, shown)| scheme.eq_ignore_ascii_case(b"Bearer ") && self.is(shown))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_opens() {
        let token = Token::new("secret\n").unwrap();
        assert!(token.opens(b"Bearer secret") && token.opens(b"bearer secret"));
        for other in [&b""[..], b"secret", b"Bearer", b"Bearer ", b"Bearer secre", b"Bearer secrets", b"Bearer Secret"]
        {
            assert!(!token.opens(other), "{other:?}");
        }
        assert!(token.is(b"secret"));
        for other in [&b""[..], b"secre", b"secrets", b"Secret", b"secreT"] {
            assert!(!token.is(other), "{other:?}");
        }
    }

    #[test]
    fn an_empty_secret_is_none() {
        assert!(Token::new(" \n").is_none());
    }
}
