//! Shows the content of a token without trusting it, for a person who wants to read it. It verifies
//! no signature.

use crate::clock::Timestamp;
use crate::crypto::Algorithm;
use crate::json::{self, Object, Value};
use crate::refusal::{Code, Refusal};
use crate::token::chain::{ChildToken, ParentToken, joined};
use crate::token::claims::Claims;
use crate::token::{Link, Presented};

/// For each token of a chain, root first: one line for each claim, with a name and a value. Then
/// one line tells whether a gateway accepts its form, and one whether it is narrower than its
/// parent. The values are safe to print on a terminal.
///
/// # Errors
/// When the text does not have the form of a token.
pub fn lines(text: &str) -> Result<Vec<Vec<(String, String)>>, Refusal> {
    let presented = Presented::read(text)?;
    let mut tokens = Vec::new();
    let mut parent = None;
    for link in presented.links() {
        let mut lines = vec![
            ("id".to_owned(), link.id().to_string()),
            ("alg".to_owned(), printable(&link.algorithm)),
            ("kid".to_owned(), printable(&link.kid)),
        ];
        if let Ok(Value::Object(payload)) = json::parse(&link.payload, &DEPTH) {
            for (name, value) in payload.iter() {
                lines.push((printable(name), shown(name, value)));
            }
        }
        if let Some(holder) = holder(link) {
            lines.push(("holder".to_owned(), holder));
        }
        lines.push(("form".to_owned(), form(link)));
        if let Some(parent) = parent {
            lines.push(("joint".to_owned(), joint(parent, link)));
        }
        tokens.push(lines);
        parent = Some(link);
    }
    Ok(tokens)
}

/// The same as one JSON object for each token: `id`, `header` (alg, kid), `payload`, `times` in RFC
/// 3339, `form`, and for children `joint`. The payload is as the token has it, or null where it is
/// not strict JSON. A chain is an object whose `chain` lists them.
///
/// # Errors
/// When the text does not have the form of a token.
pub fn document(text: &str) -> Result<String, Refusal> {
    let presented = Presented::read(text)?;
    let mut tokens = Vec::new();
    let mut parent = None;
    for link in presented.links() {
        // `write` keeps the text of numbers and the order of members, so it shows what was signed.
        let payload = json::parse(&link.payload, &DEPTH).unwrap_or(Value::Null);
        let mut times = Object::new();
        for name in DATES {
            if let Some(claim) = payload.member(name)
                && let Some(at) = moment(claim)
            {
                times.set(name, Value::from_text(at));
            }
        }
        let mut header = Object::new();
        header.set("alg", Value::from_text(link.algorithm.as_str()));
        header.set("kid", Value::from_text(link.kid.as_str()));
        let mut object = Object::new();
        object.set("id", Value::from_text(link.id().to_string()));
        object.set("header", Value::Object(header));
        if let Some(holder) = holder(link) {
            object.set("holder", Value::from_text(holder));
        }
        object.set("form", Value::from_text(form(link)));
        if let Some(parent) = parent {
            object.set("joint", Value::from_text(joint(parent, link)));
        }
        object.set("times", Value::Object(times));
        object.set("payload", payload);
        tokens.push(print(&Value::Object(object)));
        parent = Some(link);
    }
    Ok(match tokens.as_slice() {
        [one] => one.clone(),
        many => format!("{{\"chain\":[{}]}}", many.join(",")),
    })
}

/// The thumbprint of the key that may sign children (`cnf.jwk`), as `keys revoke --holder` takes
/// it.
fn holder(link: &Link<'_>) -> Option<String> {
    let claims = Claims::read(&link.payload, usize::MAX).ok()?;
    Some(claims.holder_id()?.to_string())
}

/// Whether a child is signed by the key that its parent names and is narrower. The signature itself
/// is not checked.
fn joint(parent: &Link<'_>, child: &Link<'_>) -> String {
    let (Ok(above), Ok(below)) =
        (Claims::read(&parent.payload, usize::MAX), Claims::read(&child.payload, usize::MAX))
    else {
        return "unknown: one of the two is not well-formed".to_owned();
    };
    // The key comes from the parent; the child only names it.
    let joined = match above.holder_id() {
        Some(signer) if signer.to_string() == child.kid => joined(
            ParentToken { claims: &above, link: parent },
            ChildToken { claims: &below, signer: &signer },
        ),
        Some(_) | None => Err(Code::ChainSigner.into()),
    };
    match joined {
        Ok(()) => {
            "narrower than its parent in everything; the signature was not checked".to_owned()
        }
        Err(refusal) => said(&refusal),
    }
}

/// A refusal in words.
fn said(refusal: &Refusal) -> String {
    let detail = match &refusal.detail {
        Some(detail) => format!(" ({detail})"),
        None => String::new(),
    };
    printable(&format!("a gateway refuses it: {}: {}{detail}", refusal.code, refusal.message))
}

/// How deep a payload may nest; the same limit as at the gateway.
const DEPTH: json::Limits = json::Limits::deep(16);

/// The claims that are dates.
const DATES: [&str; 3] = ["iat", "nbf", "exp"];

/// Whether the gateway's parser accepts the form of the claims.
fn form(link: &Link<'_>) -> String {
    // A token that was cut when it was copied is the most common fault, so it has its own message.
    for known in [Algorithm::MlDsa65, Algorithm::Ed25519] {
        let (name, whole, here) = (known.as_str(), known.signature_bytes(), link.signature.len());
        if name == link.algorithm && whole != here {
            return format!(
                "a gateway refuses it: a signature of {name} has {whole} bytes, this one {here}; \
                    was the token cut?"
            );
        }
    }
    match Claims::read(&link.payload, usize::MAX) {
        Ok(_) => "well-formed; signature, issuer, audience and times were not checked".to_owned(),
        Err(refusal) => said(&refusal),
    }
}

/// A NumericDate in RFC 3339; `None` where it is not a whole number, or after the years that RFC
/// 3339 has.
fn moment(value: &Value<'_>) -> Option<String> {
    use std::fmt::Write as _;
    let ms = i64::try_from(value.as_u64()?).ok()?.checked_mul(1000)?;
    let mut text = String::new();
    write!(text, "{}", Timestamp(ms)).ok()?;
    Some(text)
}

/// A claim's value, safe to print.
fn shown(name: &str, value: &Value<'_>) -> String {
    if DATES.contains(&name)
        && let Some(date) = moment(value)
    {
        return date;
    }
    match value.as_str() {
        Some(text) => printable(text),
        None => printable(&print(value)),
    }
}

/// A JSON value as text.
fn print(value: &Value<'_>) -> String {
    let mut bytes = Vec::new();
    json::write(value, &mut bytes);
    String::from_utf8(bytes).unwrap_or_default()
}

/// `text` with every character escaped that could move a cursor, change a colour or change the
/// writing direction.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character == ' ' || character.is_ascii_graphic() || character.is_alphanumeric() {
            out.push(character);
        } else {
            out.extend(character.escape_unicode());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    fn token(payload: &str) -> String {
        let header = URL_SAFE_NO_PAD.encode(r#"{"typ":"at+jwt","alg":"Ed25519","kid":"k"}"#);
        format!("{header}.{}.{}", URL_SAFE_NO_PAD.encode(payload), "A".repeat(86))
    }

    #[track_caller]
    fn check(payload: &str, name: &str, expect: &str) {
        let lines = lines(&token(payload)).expect("lines");
        let line =
            lines.concat().into_iter().find(|(known, _)| known == name).map(|(_, value)| value);
        assert_eq!(line.as_deref(), Some(expect));
    }

    #[test]
    fn a_token_cannot_write_on_the_terminal() {
        check(
            r#"{"sub":"\u001b[31mred\u202egreen\u0007"}"#,
            "sub",
            "\\u{1b}[31mred\\u{202e}green\\u{7}",
        );
    }

    #[test]
    fn dates_are_printed_where_they_are_dates() {
        check(r#"{"iat":1790000000}"#, "iat", "2026-09-21T14:13:20.000Z");
        check(r#"{"exp":18446744073709551615}"#, "exp", "18446744073709551615");
        check(r#"{"exp":9007199254740991}"#, "exp", "9007199254740991");
        check(r#"{"nbf":"now"}"#, "nbf", "now");
    }

    #[test]
    fn it_says_what_a_gateway_would() {
        check(
            "{}",
            "form",
            "a gateway refuses it: token-claims: A claim of the token is missing or has the wrong \
                type. (del_depth is missing)",
        );
        assert!(
            lines(&token("not json"))
                .expect("lines")
                .concat()
                .iter()
                .any(|(name, value)| name == "form" && value.contains("token-claims"))
        );
    }

    #[test]
    fn the_document_is_strict_json() {
        let text = document(&token(r#"{"iat":1790000000,"x":1.50}"#)).expect("document");
        let value = json::parse(text.as_bytes(), &DEPTH).expect("JSON");
        let object = value.as_object().expect("object");
        assert_eq!(
            object
                .get("times")
                .and_then(Value::as_object)
                .and_then(|times| times.get("iat"))
                .and_then(Value::as_str),
            Some("2026-09-21T14:13:20.000Z")
        );
        assert!(text.contains(r#""payload":{"iat":1790000000,"x":1.50}"#), "{text}");
    }
}
