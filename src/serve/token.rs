//! The token that clients show where others than this machine's users reach the server.

use std::path::Path;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::{Error, Result};

/// The fewest characters of a token.
const LEAST: usize = 16;

/// Only the digest of a token is kept: it has one length, and no message can show more of it.
pub struct Token([u8; 32]);

impl Token {
    /// Reads a file that holds the token alone; white space around it does not count.
    ///
    /// # Errors
    /// `Io` where it cannot be read, `Data` where it holds no token.
    pub fn read(path: &Path) -> Result<Token> {
        let text = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let token = text.trim_ascii();
        let make = "make one with: openssl rand -hex 32";
        if token.len() < LEAST {
            let why = format!("a token has {LEAST} characters or more; {make}");
            return Err(Error::data(path, why));
        }
        if !token.iter().all(u8::is_ascii_graphic) {
            return Err(Error::data(path, format!("a token is one word of visible ASCII; {make}")));
        }
        Ok(Token(Sha256::digest(token).into()))
    }

    /// Whether the head of a request shows it, `Authorization: Bearer TOKEN`; takes as long whatever is shown.
    pub(super) fn is_shown(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
        let (scheme, token) = shown.split_at(shown.len().min(BEARER.len()));
        let digest: [u8; 32] = Sha256::digest(token).into();
        scheme.eq_ignore_ascii_case(BEARER) & bool::from(digest.ct_eq(&self.0))
    }
}

const BEARER: &[u8] = b"Bearer ";

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn a_token_is_read_and_compared_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        let token = Token::read(&path).unwrap();
        for right in ["Bearer 0123456789abcdef", "bearer 0123456789abcdef"] {
            assert!(token.is_shown(&headers(right)), "{right}");
        }
        for wrong in
            ["", "Bearer", "Bearer 0123456789abcde", "Bearer 0123456789abcdef0", "Basic 0123456789abcdef"]
        {
            assert!(!token.is_shown(&headers(wrong)), "{wrong}");
        }
        assert!(!token.is_shown(&HeaderMap::new()));
        for (text, part) in
            [("short", "16 characters"), ("two words of a token", "one word"), ("", "openssl")]
        {
            std::fs::write(&path, text).unwrap();
            assert!(Token::read(&path).err().unwrap().to_string().contains(part), "{text}");
        }
    }
}
