//! The forms in which secrets and addresses can be written.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::model::ranges::part;

/// The address of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamAddress {
    /// A host, as written in a URL, and its port.
    Host {
        /// The name or address. An IPv6 address is in brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// The path of a Unix socket.
    Socket(String),
}

impl UpstreamAddress {
    /// The forms of the address in errors: `host:port`, or a URL.
    pub(super) fn forms(&self) -> Vec<Vec<u8>> {
        match self {
            Self::Host { host, port } => [
                // A bare host without a port would also match in ordinary names, so it is not a
                // form.
                format!("{host}:{port}"),
                format!("http://{host}"),
                format!("https://{host}"),
                format!("http://{host}:{port}"),
                format!("https://{host}:{port}"),
            ]
            .map(String::into_bytes)
            .to_vec(),
            Self::Socket(path) => vec![path.clone().into_bytes()],
        }
    }
}

/// True if an address is no part of a longer name or number.
pub(super) fn stands_alone(text: &[u8], from: usize, to: usize) -> bool {
    if from > 0 && (is_in_name(text, from - 1) || text.get(from - 1) == Some(&b'.')) {
        return false;
    }
    // The port after `http://host` may be another one. It is still the same host.
    let is_dotted = text.get(to) == Some(&b'.') && is_in_name(text, to + 1);
    !is_in_name(text, to) && !is_dotted
}

/// Whether the byte at an offset is a letter, a digit, `-` or `_`.
fn is_in_name(text: &[u8], at: usize) -> bool {
    match text.get(at) {
        Some(byte) => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'),
        None => false,
    }
}

/// The forms of a secret: the secret itself, and its base64. There is one form for each of the
/// three alignments and each of the two alphabets (RFC 4648, sections 4 and 5). A base64 character
/// that also depends on the bytes before or after the secret is left out.
pub(super) fn of_secret(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![secret.to_vec()];
    for before in 0..3 {
        let encoded = STANDARD_NO_PAD.encode([&vec![0; before][..], secret].concat());
        // The first whole character after the bytes before the secret, and the end of the last
        // whole one.
        let from = (before * 8).div_ceil(6);
        let to = (before + secret.len()) * 8 / 6;
        let standard = part(encoded.as_bytes(), from..to).to_vec();
        let mut url = standard.clone();
        for byte in &mut url {
            match byte {
                b'+' => *byte = b'-',
                b'/' => *byte = b'_',
                _ => {}
            }
        }
        forms.push(url);
        forms.push(standard);
    }
    forms.sort();
    forms.dedup();
    forms
}
