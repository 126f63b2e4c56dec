//! The payload of a record: writes and reads its members.

use std::borrow::Cow;
use std::str::FromStr;

use crate::audit::format::fault::RecordFault;
use crate::clock::Timestamp;
use crate::id::Principal;
use crate::json;
use crate::json::Value;

/// The maximum length of a text in a record, in bytes.
pub const TEXT_BYTES_MAX: usize = 256;

/// Reads the members of a payload.
pub(super) struct PayloadReader<'a>(pub(super) &'a json::Object<'a>);

impl PayloadReader<'_> {
    /// Whether the member is present.
    pub(super) fn has(&self, member: &str) -> bool {
        self.0.get(member).is_some()
    }

    /// A text. Fails where the member is missing or has another type.
    pub(super) fn text(&self, member: &'static str) -> Result<String, RecordFault> {
        match text_of(self.0, member) {
            Some(text) => Ok(text.to_owned()),
            None => Err(RecordFault::Member(member)),
        }
    }

    /// A text; `None` where the member is missing. `null` is a fault, because it would be a second
    /// form of the same record.
    pub(super) fn optional_text(
        &self,
        member: &'static str,
    ) -> Result<Option<String>, RecordFault> {
        if self.has(member) { Ok(Some(self.text(member)?)) } else { Ok(None) }
    }

    /// A text that is parsed as a name.
    pub(super) fn name<T: FromStr>(&self, member: &'static str) -> Result<T, RecordFault> {
        self.text(member)?.parse().map_err(|_| RecordFault::Member(member))
    }

    /// A name; `None` where the member is missing.
    pub(super) fn optional_name<T: FromStr>(
        &self,
        member: &'static str,
    ) -> Result<Option<T>, RecordFault> {
        if self.has(member) { Ok(Some(self.name(member)?)) } else { Ok(None) }
    }

    /// A non-negative integer.
    pub(super) fn number(&self, member: &'static str) -> Result<u64, RecordFault> {
        match self.0.get(member).and_then(Value::as_u64) {
            Some(number) => Ok(number),
            None => Err(RecordFault::Member(member)),
        }
    }

    /// A boolean.
    pub(super) fn truth(&self, member: &'static str) -> Result<bool, RecordFault> {
        match self.0.get(member) {
            Some(Value::Bool(truth)) => Ok(*truth),
            _ => Err(RecordFault::Member(member)),
        }
    }

    /// An object. Fails where the member is missing or has another type.
    pub(super) fn object(&self, member: &'static str) -> Result<PayloadReader<'_>, RecordFault> {
        match self.0.get(member) {
            Some(Value::Object(object)) => Ok(PayloadReader(object)),
            _ => Err(RecordFault::Member(member)),
        }
    }
}

/// The text of a member; `None` where the member is missing or has another type.
pub(in crate::audit) fn text_of<'o>(object: &'o json::Object<'_>, member: &str) -> Option<&'o str> {
    object.get(member)?.as_str()
}

/// Collects the members of a payload, in any order.
#[derive(Default)]
pub(super) struct PayloadWriter<'e>(Vec<(&'static str, Value<'e>)>);

impl<'e> PayloadWriter<'e> {
    /// Adds a text. It is cut at [`TEXT_BYTES_MAX`].
    pub(super) fn name(&mut self, member: &'static str, text: &'e str) {
        self.long(member, text, TEXT_BYTES_MAX);
    }

    /// Adds a text that is cut at `most` bytes.
    pub(super) fn long(&mut self, member: &'static str, text: &'e str, most: usize) {
        self.0.push((member, Value::String(cut_to(text, most))));
    }

    /// Adds a text, where there is one.
    pub(super) fn optional(&mut self, member: &'static str, text: Option<&'e str>) {
        if let Some(text) = text {
            self.name(member, text);
        }
    }

    /// Adds the principal, where there is one.
    pub(super) fn principal(&mut self, principal: Option<&'e Principal>) {
        if let Some(principal) = principal {
            self.name("principal", principal.as_str());
        }
    }

    /// Adds a text of limited length, without a cut.
    pub(super) fn owned(&mut self, member: &'static str, text: String) {
        self.0.push((member, Value::from_text(text)));
    }

    /// Adds a time in RFC 3339, where there is one.
    pub(super) fn moment(&mut self, member: &'static str, at: Option<Timestamp>) {
        if let Some(at) = at {
            self.owned(member, moment(at).to_string());
        }
    }

    /// Adds a number; see [`number`].
    pub(super) fn number(&mut self, member: &'static str, value: u64) {
        self.0.push((member, number(value)));
    }

    /// Adds a value of any type.
    pub(super) fn value(&mut self, member: &'static str, value: Value<'e>) {
        self.0.push((member, value));
    }

    /// The object with its members in canonical order. Names are ASCII, so their byte order is the
    /// order of RFC 8785 section 3.2.3.
    pub(super) fn into_object(mut self) -> Value<'e> {
        // Every caller may add members in any order, so the order is made here, once.
        self.0.sort_unstable_by_key(|(name, _)| *name);
        let mut object = json::Object::new();
        for (name, value) in self.0 {
            object.set(name, value);
        }
        Value::Object(object)
    }
}

/// An object. The members must be sorted already.
pub(super) fn object<'v>(
    members: impl IntoIterator<Item = (&'static str, Value<'v>)>,
) -> Value<'v> {
    let mut object = json::Object::new();
    for (name, value) in members {
        object.set(name, value);
    }
    Value::Object(object)
}

/// The first `most` items as a list of a record. Lists are cut, so that a record never gets above
/// its maximum length.
pub(super) fn list<'v, T>(items: &'v [T], most: usize, value: fn(&'v T) -> Value<'v>) -> Value<'v> {
    Value::Array(items.iter().take(most).map(value).collect())
}

/// The text, cut at [`TEXT_BYTES_MAX`].
pub(super) fn cut(text: &str) -> Cow<'_, str> {
    cut_to(text, TEXT_BYTES_MAX)
}

/// The text, cut at `most` bytes at most, at the end of a character.
pub(super) fn cut_to(text: &str, most: usize) -> Cow<'_, str> {
    Cow::Borrowed(text.get(..text.floor_char_boundary(most)).unwrap_or_default())
}

/// `at`, limited to the years that RFC 3339 can write.
pub(in crate::audit) fn moment(at: Timestamp) -> Timestamp {
    // RFC 3339 has four digits for the year.
    /// The first millisecond of the year 9999.
    const YEAR_9999: i64 = 253_370_764_800_000;
    Timestamp(at.0.clamp(0, YEAR_9999 - 1))
}

/// A number that every JSON parser reads exactly: below 2^53 (RFC 7493 section 2.2).
pub(super) fn number(number: u64) -> Value<'static> {
    Value::from_u64(number.min((1 << 53) - 1))
}
