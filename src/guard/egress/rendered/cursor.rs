//! A position in a line, in bytes and in columns. A tab ends at the next multiple of four columns
//! (CommonMark 0.31 section 2.2).

/// The columns of a tab stop.
const TAB: usize = 4;

/// A position in a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'l> {
    /// The line, without its end.
    line: &'l [u8],
    /// The next byte. It stays at a tab of which a part is used.
    pub(super) at: usize,
    /// The column of the next byte.
    column: usize,
}

impl<'l> Cursor<'l> {
    /// The start of a line.
    pub(super) const fn new(line: &'l [u8]) -> Self {
        Self { line, at: 0, column: 0 }
    }

    /// The rest of the line.
    pub(super) fn rest(&self) -> &'l [u8] {
        self.line.get(self.at..).unwrap_or_default()
    }

    /// The next byte.
    pub(super) fn peek(&self) -> Option<u8> {
        self.line.get(self.at).copied()
    }

    /// The position of the next byte that is not a space or tab.
    pub(super) fn text(&self) -> Self {
        let mut next = *self;
        while next.is_space() {
            next.columns(1);
        }
        next
    }

    /// The columns of white space before the text.
    pub(super) fn indent(&self) -> usize {
        self.text().column - self.column
    }

    /// Whether only white space follows.
    pub(super) fn is_blank(&self) -> bool {
        self.text().peek().is_none()
    }

    /// Whether a space or tab is next.
    pub(super) fn is_space(&self) -> bool {
        matches!(self.peek(), Some(b' ' | b'\t'))
    }

    /// Skips `count` bytes that are not tabs.
    pub(super) fn skip(&mut self, count: usize) {
        self.at += count;
        self.column += count;
    }

    /// Skips at most `count` columns of white space, also a part of a tab.
    pub(super) fn columns(&mut self, count: usize) {
        for _ in 0..count {
            match self.peek() {
                Some(b' ') => self.at += 1,
                Some(b'\t') => self.at += usize::from(self.column % TAB == TAB - 1),
                Some(_) | None => return,
            }
            self.column += 1;
        }
    }
}
