//! What single characters are to the readers of texts.

/// Whether a character is there as a reference.
pub(super) fn is_reference(raw: &str) -> bool {
    raw.len() > 1 && raw.starts_with('&')
}

/// Whether slashes after `before` belong to what is there: a path, a fraction.
pub(super) fn joins(before: char) -> bool {
    before.is_alphanumeric() || before == '/'
}

/// Ends a URL that is taken out. What is left of it after that is text.
pub(super) fn ends_url(next: char) -> bool {
    let wide = matches!(
        next,
        '\u{3001}'..='\u{3011}'
            | '\u{ff01}'
            | '\u{ff08}'..='\u{ff0c}'
            | '\u{ff1a}'..='\u{ff1f}'
            | '\u{2018}'..='\u{201f}'
    );
    let closes = matches!(next, '<' | '>' | '"' | '\'' | '`' | ')' | ']' | '}' | '|' | '\\');
    next.is_whitespace() || next.is_control() || wide || closes
}
