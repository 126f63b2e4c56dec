//! Where a text is fenced code, as far as every reader of Markdown has it so (CommonMark 0.31
//! sections 4.5 and 4.6).
//!
//! Only fences at the beginning of a line count. Where readers could differ, no fence is believed
//! any more: what is there is treated as text.

use std::cmp::Ordering;

/// Languages of fenced code that readers draw.
const DRAWN: [&str; 20] = [
    "abc", "chart", "d2", "dot", "echarts", "flow", "geojson", "graphviz", "katex", "markmap",
    "math", "mermaid", "nomnoml", "plantuml", "puml", "sequence", "tikz", "topojson", "vega",
    "wavedrom",
];
/// Letters of such a language's name that are looked at.
const INFO_MAX: usize = 16;
/// The longest line's front that is looked at.
const FRONT_MAX: usize = 64;
/// Bytes of a line's own text that tell what it is, where it is no fence.
const REST_ENOUGH: usize = 3;

/// A fence that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fence {
    mark: char,
    count: usize,
}

/// What is after a fence on its line.
#[derive(Clone, Debug, Default)]
struct Info {
    word: String,
    over: bool,
    /// Readers differ in what it says, or do not see it: a second word, attributes, escapes.
    odd: bool,
}

impl Info {
    fn take(&mut self, next: char) {
        match next {
            ' ' | '\t' => self.over = !self.word.is_empty(),
            _ if self.over => self.odd = true,
            _ if next.is_ascii_alphanumeric() || matches!(next, '+' | '-' | '_' | '#' | '.') => {
                if self.word.len() < INFO_MAX {
                    self.word.push(next.to_ascii_lowercase());
                }
            }
            _ => self.odd = true,
        }
    }

    /// Whether it is code for every reader.
    fn is_code(&self) -> bool {
        !self.odd && !DRAWN.iter().any(|drawn| self.word.starts_with(drawn))
    }
}

/// Whether a formula that some readers take out before they look at lines is open.
#[derive(Clone, Copy, Debug, Default)]
struct Formula {
    brackets: bool,
    dollars: bool,
}

impl Formula {
    fn take(&mut self, last: char, next: char) {
        match (last, next) {
            ('\\', '(' | '[') => self.brackets = true,
            ('\\', ')' | ']') => self.brackets = false,
            ('$', '$') => self.dollars = !self.dollars,
            _ => {}
        }
    }
}

/// How a line begins.
#[derive(Clone, Debug, Default)]
struct Front {
    text: String,
    /// Bytes that block quotes, lists and indentation put before the line's own text.
    before: usize,
    /// What the line's own text begins with, if that is a fence's character.
    mark: Option<char>,
    /// Something else than it is after it.
    mixed: bool,
}

impl Front {
    fn clear(&mut self) {
        self.text.clear();
        (self.before, self.mark, self.mixed) = (0, None, false);
    }

    /// Bytes of the line's own text.
    const fn own(&self) -> usize {
        self.text.len() - self.before
    }

    const fn is_full(&self) -> bool {
        self.text.len() >= FRONT_MAX
    }

    /// While it is made of what may be before or in a fence, or is too short to tell.
    const fn may_go_on(&self) -> bool {
        !self.is_full() && if self.mark.is_some() { !self.mixed } else { self.own() < REST_ENOUGH }
    }

    fn push(&mut self, next: char) {
        let begins = self.own() == 0;
        self.text.push(next);
        if begins && is_container(next) {
            self.before = self.text.len();
        } else if begins {
            self.mark = Some(next).filter(|mark| matches!(mark, '`' | '~'));
        } else {
            self.mixed |= self.mark != Some(next);
        }
    }

    /// What is before the line's own text, and that.
    fn split(&self) -> (&str, &str) {
        self.text.split_at(self.before)
    }

    fn spaces(&self) -> usize {
        self.text.len() - self.text.trim_start_matches(' ').len()
    }
}

/// The line at hand, and what those before it have opened.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    fence: Option<Fence>,
    /// Something is in it.
    coded: bool,
    /// No fence is believed any more.
    doubt: bool,
    /// A line of this block began with `<`: what follows may be HTML up to a blank line (section
    /// 4.6, kinds 6 and 7).
    html: bool,
    /// A fence that is open in an item, for all who have it there, and how far it is indented.
    quiet: Option<(Fence, usize)>,
    /// How far what belongs to the list's last item is indented, while every line since has been.
    item: Option<usize>,
    front: Front,
    /// This line has only what block quotes, lists and indentation put there.
    containers: bool,
    /// The first line of the text.
    first: bool,
    /// What is after a fence on its line, as far as it names a language, and whether it does
    /// more.
    info: Info,
    /// A formula is open on this line, with its brackets or its dollar signs.
    formula: Formula,
    last: char,
    /// Something but blanks.
    body: bool,
    /// A fence's own character after its run; other text after it.
    mark_again: bool,
    text_behind: bool,
    pipe: bool,
    /// The last character was a carriage return.
    returned: bool,
}

impl Lines {
    pub(super) fn new(fences: bool) -> Self {
        Self {
            fence: None,
            coded: false,
            doubt: !fences,
            html: false,
            quiet: None,
            item: None,
            front: Front::default(),
            containers: true,
            first: true,
            info: Info::default(),
            formula: Formula::default(),
            last: '\n',
            body: false,
            mark_again: false,
            text_behind: false,
            pipe: false,
            returned: false,
        }
    }

    /// Whether what comes is fenced code for every reader.
    pub(super) const fn fenced(&self) -> bool {
        self.fence.is_some()
    }

    /// Whether only marks of block quotes and lists are before on this line.
    pub(super) const fn only_containers(&self) -> bool {
        self.containers
    }

    /// Whether `next` ends an empty line.
    pub(super) const fn ends_blank(&self, next: char) -> bool {
        !self.body && (next == '\r' || (next == '\n' && !self.returned))
    }

    /// Takes a run without the end of a line.
    pub(super) fn ran(&mut self, run: &str) {
        for next in run.chars() {
            if self.is_past_front() {
                self.last = ' ';
                return;
            }
            self.take(next);
        }
    }

    /// Whether more text on this line changes no state.
    fn is_past_front(&self) -> bool {
        self.body && self.front.mark.is_none() && !self.front.may_go_on()
    }

    /// No fenced text is believed any more.
    pub(super) fn doubt(&mut self) {
        self.doubt = true;
        (self.fence, self.quiet) = (None, None);
    }

    /// Takes the next character as it is written; says whether a blank line has just ended.
    pub(super) fn take(&mut self, next: char) -> bool {
        // One end of a line, in two characters.
        let second = std::mem::replace(&mut self.returned, next == '\r') && next == '\n';
        if second {
            return false;
        }
        if matches!(next, '\n' | '\r') {
            let blank = !self.body;
            self.line();
            self.front.clear();
            (self.info, self.formula, self.last) = (Info::default(), Formula::default(), '\n');
            (self.containers, self.first) = (true, false);
            (self.body, self.mark_again, self.text_behind, self.pipe) =
                (false, false, false, false);
            return blank;
        }
        self.body |= !matches!(next, ' ' | '\t');
        self.containers &= is_container(next);
        self.pipe |= next == '|';
        // After the fence's own run.
        if self.front.mark.is_some_and(|mark| self.front.mixed || mark != next) {
            self.info.take(next);
        }
        self.formula.take(self.last, next);
        // A pair of them is one sign.
        self.last = if self.last == '$' && next == '$' { ' ' } else { next };
        if self.front.may_go_on() {
            self.front.push(next);
        } else if next == '`' {
            self.mark_again = true;
        } else if !matches!(next, ' ') {
            self.text_behind = true;
        }
        false
    }

    /// The line has ended.
    fn line(&mut self) {
        if !self.body {
            self.html = false;
            return;
        }
        let front = std::mem::take(&mut self.front);
        self.ended(&front);
        self.front = front;
    }

    fn ended(&mut self, front: &Front) {
        let (before, rest) = front.split();
        let count =
            front.mark.map_or(0, |mark| rest.chars().take_while(|other| *other == mark).count());
        // The front takes in the first character after the run.
        let behind = rest.chars().nth(count);
        let other_behind =
            behind.is_some_and(|behind| behind != ' ') || self.text_behind || self.mark_again;
        let mark = front.mark.filter(|_| count >= 3);
        if self.fence.is_none() && self.begins_otherwise(front) {
            self.doubt();
        }
        if let Some((fence, indent)) = self.quiet {
            self.in_item(fence, indent, front, mark, count, other_behind);
            return;
        }
        match (self.fence, mark) {
            (Some(fence), Some(mark)) if mark == fence.mark => {
                self.maybe_closes(fence, before, count, other_behind)
            }
            (None, Some(mark)) => self.maybe_opens(Fence { mark, count }, front, behind),
            (Some(_), _) => self.coded = true,
            (None, None) => self.other(front),
        }
    }

    /// A line after one that opened a fence in an item: until it is closed in the same place,
    /// other readers may have it elsewhere.
    fn in_item(
        &mut self,
        fence: Fence,
        indent: usize,
        front: &Front,
        mark: Option<char>,
        count: usize,
        other_behind: bool,
    ) {
        let spaces = front.spaces();
        if mark == Some(fence.mark) {
            self.quiet = None;
            if other_behind
                || !self.coded
                || count != fence.count
                || front.before != indent
                || spaces != indent
            {
                self.doubt();
            }
        } else if spaces < indent {
            self.quiet = None;
            self.doubt();
        }
        self.coded = true;
    }

    /// A line that closes a fence for all who have it as it was opened: as long, where it was, and
    /// not at once.
    fn maybe_closes(&mut self, fence: Fence, before: &str, count: usize, other_behind: bool) {
        match (before.is_empty() && !other_behind, count.cmp(&fence.count)) {
            (true, Ordering::Equal) if self.coded => self.fence = None,
            // Shorter than what opened it: code, for every reader.
            (true, Ordering::Less) => self.coded = true,
            _ => self.doubt(),
        }
    }

    fn maybe_opens(&mut self, fence: Fence, front: &Front, behind: Option<char>) {
        let (before, _) = front.split();
        let code_span = fence.mark == '`' && (self.mark_again || behind == Some('`'));
        let unsure = self.html || self.pipe || code_span || front.is_full();
        if !before.is_empty() {
            let spaces = before.bytes().all(|byte| byte == b' ');
            let in_item = self
                .item
                .is_some_and(|item| spaces && before.len() >= item && before.len() < item + 4);
            if in_item && !self.doubt && !unsure {
                (self.quiet, self.coded) = (Some((fence, before.len())), false);
            } else {
                self.doubt();
            }
            return;
        }
        self.item = None;
        // What is drawn from such code can have its own pictures and links.
        if self.doubt || unsure || !self.info.is_code() {
            self.doubt();
        } else {
            (self.fence, self.coded) = (Some(fence), false);
        }
    }

    /// Formulas between such lines, and what may be before a whole text, are no Markdown for
    /// some.
    fn begins_otherwise(&self, front: &Front) -> bool {
        let (_, rest) = front.split();
        let matter = self.first && ["---", "+++"].iter().any(|mark| front.text.starts_with(mark));
        matter || self.formula.brackets || self.formula.dollars || rest.trim_end() == "$"
    }

    /// A line that is no fence.
    fn other(&mut self, front: &Front) {
        let (before, rest) = front.split();
        // What continues to a blank line for some: HTML, definitions of links and of terms.
        self.html |= rest.starts_with(['<', '[']) || before.contains(':');
        if before.contains('\u{feff}') {
            self.doubt();
        }
        match self.item {
            Some(item) if front.spaces() >= item => {}
            // A line of marks alone may be a rule, or say that the line before is a heading.
            _ => self.item = item_indent(&front.text, before).filter(|_| !rest.is_empty()),
        }
    }
}

/// What block quotes, lists and indentation put before a line's own text.
fn is_container(front: char) -> bool {
    matches!(front, ' ' | '\t' | '>' | '-' | '*' | '+' | '.' | ')' | ':' | '\u{feff}')
        || front.is_ascii_digit()
}

/// How far what belongs to an item is indented, if a line begins one (section 5.2).
fn item_indent(front: &str, before: &str) -> Option<usize> {
    let indent = front.len() - front.trim_start_matches(' ').len();
    let rest = before.get(indent..)?;
    let digits = rest.len() - rest.trim_start_matches(|digit: char| digit.is_ascii_digit()).len();
    let marker = rest.get(digits..)?.chars().next()?;
    let listed = if digits == 0 {
        matches!(marker, '-' | '*' | '+')
    } else {
        digits < 10 && matches!(marker, '.' | ')')
    };
    let behind = rest.get(digits + 1..)?;
    let spaces = behind.len();
    // More marks may make a rule of it, or lists in the list.
    let listed = listed && behind.bytes().all(|byte| byte == b' ');
    (indent < 4 && listed && (1..=4).contains(&spaces)).then_some(indent + digits + 1 + spaces)
}

#[cfg(test)]
mod tests;
