//! A value of a strictly parsed document, with access by the names of members.

use std::borrow::Cow;

use crate::json::{self, Limits, Value};
use crate::model::values::Values as _;

use super::{Children, JsonTree, NodeKind, ValueId};

/// A value of a [`JsonTree`].
#[derive(Clone, Copy)]
pub(in crate::model) struct JsonView<'t> {
    /// The tree.
    tree: &'t JsonTree<'t>,
    /// The value.
    at: ValueId,
}

impl<'t> JsonTree<'t> {
    /// The outermost value.
    pub(in crate::model) const fn view(&'t self) -> JsonView<'t> {
        JsonView { tree: self, at: self.root() }
    }

    /// The name of a member, with decoded escapes; `None` if it is invalid.
    pub(super) fn name(&self, at: ValueId) -> Option<Cow<'t, str>> {
        let name = self.node(at)?.name;
        let raw = name.of(self.json);
        if memchr::memchr(b'\\', raw).is_none() && !raw.iter().any(|byte| *byte < b' ') {
            return Some(Cow::Borrowed(std::str::from_utf8(raw).ok()?));
        }
        // The parser needs the quotes around the name.
        let quoted = self.json.get(name.from as usize - 1..name.to as usize + 1)?;
        match json::parse(quoted, &Limits::deep(1)) {
            Ok(Value::String(text)) => Some(text),
            Ok(_) | Err(_) => None,
        }
    }
}

impl<'t> JsonView<'t> {
    /// The member of that name.
    pub(in crate::model) fn get(self, key: &str) -> Option<Self> {
        for (at, _) in self.children_of(NodeKind::Object) {
            // Clients decode escapes in a name, so the decoded name is compared.
            if self.tree.name(at).as_deref() == Some(key) {
                return Some(JsonView { tree: self.tree, at });
            }
        }
        None
    }

    /// The text of the member of that name; `None` if it is absent or no string.
    pub(in crate::model) fn text(self, key: &str) -> Option<&'t str> {
        self.get(key)?.as_str()
    }

    /// The items of an array.
    pub(in crate::model) fn items(self) -> impl Iterator<Item = Self> {
        self.children_of(NodeKind::Array).map(move |(at, _)| JsonView { tree: self.tree, at })
    }

    /// The members or items, if the value has that kind.
    fn children_of(self, kind: NodeKind) -> Children<'t> {
        let children = self.tree.children(self.at);
        if self.kind() == Some(kind) { children } else { Children { end: 0, ..children } }
    }

    /// The kind of the value.
    fn kind(self) -> Option<NodeKind> {
        Some(self.tree.node(self.at)?.kind)
    }

    /// Whether it is an object.
    pub(in crate::model) fn is_object(self) -> bool {
        self.kind() == Some(NodeKind::Object)
    }

    /// Whether it is an array.
    pub(in crate::model) fn is_array(self) -> bool {
        self.kind() == Some(NodeKind::Array)
    }

    /// Whether it is `null`.
    pub(in crate::model) fn is_null(self) -> bool {
        self.raw() == b"null"
    }

    /// The text of a string.
    pub(in crate::model) fn as_str(self) -> Option<&'t str> {
        self.tree.string(self.at)
    }

    /// A number of plain digits that fits 64 bits.
    pub(in crate::model) fn as_u64(self) -> Option<u64> {
        let digits = std::str::from_utf8(self.raw()).ok()?;
        if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
    }

    /// The bytes of the value as written.
    pub(in crate::model) fn raw(self) -> &'t [u8] {
        self.tree.raw(self.at).trim_ascii()
    }
}
