//! What the authority of a URL in a text is, where one reader ends it here and another there.

/// Characters of an authority after which it is no controlled one.
pub(super) const AUTHORITY_MAX: usize = 300;

/// Digits of an address that is written as one number, at the least.
const NUMBER_MIN: usize = 8;
/// What readers of names take for dots, or write with dots.
const DOTS: [char; 7] =
    ['.', '\u{2024}', '\u{2025}', '\u{2026}', '\u{3002}', '\u{ff0e}', '\u{ff61}'];

/// What is before an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lead {
    /// A scheme, in lower case; empty for one that is too long for any list.
    Scheme(String),
    /// Two slashes; out in the text only what has a dot in it is a name then.
    Slashes {
        /// Where a destination is.
        placed: bool,
    },
    /// `www`.
    Www,
}

/// Ends an authority for every reader.
pub(super) fn ends(next: char) -> bool {
    next.is_whitespace()
        || next.is_control()
        || matches!(next, '/' | '?' | '#' | '<' | '>' | '[' | ']' | '^' | '|')
}

/// Ends it for some readers.
fn may_end(next: char) -> bool {
    !next.is_alphanumeric() && !matches!(next, '.' | '-' | '_' | ':' | '%' | '@' | '[' | ']')
}

/// The URL to judge for what was read as an authority; `None` where no host is named: out in the
/// text, that is, and not `placed` where a URL belongs. `odd` is what readers do not agree on.
///
/// # Errors
/// The text for the record, where there is no URL that all readers have alike.
pub(super) fn url(
    lead: &Lead,
    read: &str,
    odd: bool,
    placed: bool,
) -> Option<Result<String, String>> {
    let scheme = match lead {
        Lead::Scheme(scheme) => scheme.as_str(),
        Lead::Slashes { .. } => "https",
        Lead::Www => "http",
    };
    // Out in the text, what has no dot is no name but for this one, and no address unless it has as
    // many digits as one.
    let plain =
        *lead == Lead::Slashes { placed: false } && !read.contains(DOTS) && !read.contains('[');
    if plain && !read.starts_with("localhost") && !is_number(read) {
        return None;
    }
    let cut = read.find(may_end).unwrap_or(read.len());
    let (front, behind) = read.split_at(cut);
    // A reader that continues reads another host.
    let named = front.trim_end_matches(['.', '-', '_', ':']);
    let goes_on =
        behind.contains(|next: char| next.is_alphanumeric() || !(next.is_ascii() || closes(next)));
    if odd || (placed && named.is_empty()) || goes_on || read.contains('@') {
        return Some(Err(format!("{scheme}://{read}")));
    }
    if named.is_empty() || (*lead == Lead::Www && named == "www") {
        return None;
    }
    Some(Ok(format!("{scheme}://{named}/")))
}

/// What is after a URL in a text and never becomes a letter, a digit or a dot of its host
/// (Unicode UTS 46 section 4).
const fn closes(next: char) -> bool {
    let latin =
        matches!(next, '\u{a1}' | '\u{a7}' | '\u{ab}' | '\u{b6}' | '\u{b7}' | '\u{bb}' | '\u{bf}');
    let general = matches!(next, '\u{2010}'..='\u{2023}' | '\u{2027}' | '\u{2030}'..='\u{203a}');
    let wide = matches!(
        next,
        '\u{3001}'
            | '\u{3008}'..='\u{3011}'
            | '\u{3014}'..='\u{301f}'
            | '\u{ff01}'..='\u{ff0d}'
            | '\u{ff1a}'..='\u{ff1f}'
            | '\u{ff3b}'..='\u{ff3d}'
            | '\u{ff5b}'..='\u{ff60}'
            | '\u{ff62}'..='\u{ff65}'
    );
    latin || general || wide
}

/// Whether an address may be written so (URL Standard section 3.5), out in the text where small
/// numbers are after slashes too.
fn is_number(read: &str) -> bool {
    let hex = read.strip_prefix("0x").or_else(|| read.strip_prefix("0X"));
    hex.is_some_and(|hex| hex_digits(hex) + 1 >= NUMBER_MIN)
        || read.chars().take_while(char::is_ascii_digit).count() >= NUMBER_MIN
}

/// How many hexadecimal digits a text begins with.
fn hex_digits(text: &str) -> usize {
    text.chars().take_while(char::is_ascii_hexdigit).count()
}

/// Whether a `data:` URL of that beginning is a picture that is only drawn, or sound or
/// film: it causes no fetch.
pub(super) fn is_inert(data: &str) -> bool {
    let kind = data.split([';', ',']).next().unwrap_or_default().to_ascii_lowercase();
    match kind.split_once('/') {
        Some(("image", kind)) => matches!(kind, "png" | "jpeg" | "gif" | "webp" | "avif" | "bmp"),
        Some(("audio", kind)) => {
            matches!(
                kind,
                "aac"
                    | "flac"
                    | "mp3"
                    | "mp4"
                    | "mpeg"
                    | "ogg"
                    | "opus"
                    | "wav"
                    | "wave"
                    | "webm"
                    | "x-m4a"
                    | "x-wav"
            )
        }
        Some(("video", kind)) => matches!(kind, "mp4" | "mpeg" | "ogg" | "quicktime" | "webm"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(read: &str, expect: Option<Result<&str, &str>>) {
        let found = url(&Lead::Scheme("https".to_owned()), read, false, false);
        assert_eq!(
            found.as_ref().map(|found| found.as_deref().map_err(String::as_str)),
            expect,
            "{read}"
        );
    }

    #[test]
    fn what_one_reader_would_read_on_is_not_judged() {
        check("a.example", Some(Ok("https://a.example/")));
        check("a.example:8443", Some(Ok("https://a.example:8443/")));
        check("a.example).", Some(Ok("https://a.example/")));
        check("a.example**,", Some(Ok("https://a.example/")));
        check("a.example_", Some(Ok("https://a.example/")));
        check("[::1]:80", Some(Ok("https://[::1]:80/")));
        check("...", None);
        check(")", None);
        check("a.example),b.example", Some(Err("https://a.example),b.example")));
        check("a.example@b.example", Some(Err("https://a.example@b.example")));
        check("a.example\u{3002}b", Some(Err("https://a.example\u{3002}b")));
    }
}
