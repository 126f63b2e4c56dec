//! Replaces a URL in a call by the content of the URL, so that the model server has no URL to
//! fetch.
//!
//! The content is not fetched yet when the call is written. So the body is written with
//! placeholders, which [`fill`] replaces by the content. A placeholder contains 128 random bits
//! that no caller can know. So no text of a caller can be equal to it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;

use crate::crypto::hex;
use crate::json::{Object, Value};

use super::ExternalReference;
use super::call::ModelCall;
use super::inline_slot::{InlineSlot, SlotForm};
use super::signature;
use super::strip::at;

/// A placeholder in a body where the content will be inserted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placeholder(String);

impl Placeholder {
    /// A placeholder of random bits.
    #[must_use]
    pub fn new(random: [u8; 16]) -> Self {
        Self(hex(&random))
    }
}

/// Fetched content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The media type, from the first bytes of the content.
    pub media_type: String,
    /// All bytes of the content.
    pub bytes: Vec<u8>,
}

impl ExternalReference {
    /// Whether content can replace the reference.
    #[must_use]
    pub const fn may_be_inline(&self) -> bool {
        self.slot.is_some()
    }

    /// The maximum number of content bytes; 0 if content cannot replace the reference.
    #[must_use]
    pub fn inline_bytes_max(&self) -> usize {
        match &self.slot {
            Some(slot) => slot.bytes_max,
            None => 0,
        }
    }

    /// The media types that the slot accepts.
    #[must_use]
    pub fn inline_types(&self) -> &[String] {
        match &self.slot {
            Some(slot) => &slot.types,
            None => &[],
        }
    }

    /// The media type of content by its first bytes, if the slot accepts it. A type that the
    /// content's server declares has no effect.
    #[must_use]
    pub fn media_type_of(&self, content: &[u8]) -> Option<&str> {
        self.inline_types().iter().find(|known| signature::is(known, content)).map(String::as_str)
    }
}

impl ModelCall<'_> {
    /// Puts placeholders into the slots of the references that `which` chooses. They are no longer
    /// external references. The written body must be [filled](fill).
    pub fn inline(&mut self, mark: &Placeholder, which: impl Fn(&ExternalReference) -> bool) {
        let (chosen, rest) = std::mem::take(&mut self.external_references)
            .into_iter()
            .partition(|reach| reach.may_be_inline() && which(reach));
        self.inline_slots = chosen;
        // The rest stays, so that the request filter strips or blocks it.
        self.external_references = rest;
        self.mark(mark);
    }

    /// The references that content will replace.
    #[must_use]
    pub fn inline_slots(&self) -> &[ExternalReference] {
        &self.inline_slots
    }

    /// Writes the placeholders: one for the media type and one for the data of each slot.
    fn mark(&mut self, mark: &Placeholder) {
        for (number, reach) in self.inline_slots.iter().enumerate() {
            // The number has four digits, so that `fill` can find its end. The request
            // filter allows at most 16 slots.
            let Some(value) = at(&mut self.object, &reach.steps) else { continue };
            let (kind, data) =
                (format!("{}t{number:04}", mark.0), format!("{}d{number:04}", mark.0));
            *value = match &reach.slot {
                Some(InlineSlot { form: SlotForm::Source, .. }) => {
                    let mut source = Object::new();
                    source.set("type", Value::from_text("base64"));
                    source.set("media_type", Value::from_text(kind));
                    source.set("data", Value::from_text(data));
                    Value::Object(source)
                }
                Some(InlineSlot { form: SlotForm::DataUrl, .. }) | None => {
                    Value::from_text(format!("data:{kind};base64,{data}"))
                }
            };
        }
    }
}

/// Replaces the placeholders of a body by the contents; `None` if a placeholder has no content.
#[must_use]
pub fn fill(body: &[u8], mark: &Placeholder, contents: &[Content]) -> Option<Vec<u8>> {
    let mut length = 0;
    for content in contents {
        // Base64 has 4 characters for each 3 bytes (RFC 4648, section 4).
        length += content.bytes.len().div_ceil(3) * 4 + content.media_type.len();
    }
    let (mut out, mut from) = (Vec::with_capacity(body.len() + length), 0);
    // The placeholder is followed by `t` or `d` and four digits.
    for place in memmem::find_iter(body, mark.0.as_bytes()) {
        out.extend_from_slice(body.get(from..place)?);
        let name = body.get(place + mark.0.len()..place + mark.0.len() + 5)?;
        let (kind, number) = name.split_first()?;
        // Without content, the server would get the placeholder as if it were a URL or base64.
        let content = contents.get(std::str::from_utf8(number).ok()?.parse::<usize>().ok()?)?;
        match kind {
            b't' => out.extend_from_slice(content.media_type.as_bytes()),
            _ => out.extend_from_slice(STANDARD.encode(&content.bytes).as_bytes()),
        }
        from = place + mark.0.len() + 5;
    }
    out.extend_from_slice(body.get(from..)?);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BodyChanges, BodyRules, Operation, Profile, UnknownFields, read};

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";

    fn written(operation: Operation, body: &str, contents: &[Content]) -> String {
        let profile = Profile::named("vllm").expect("a profile");
        let terms = BodyRules {
            profile: &profile,
            unknown_fields: UnknownFields::Refuse,
            model_upstream: "m",
        };
        let mut call = read(operation, body.as_bytes())
            .and_then(|read| read.understand(&terms))
            .expect("a call");
        let mark = Placeholder::new([7; 16]);
        call.inline(&mark, |reach| reach.target.contains("good"));
        let whole =
            call.write(&BodyChanges { output_tokens: Some(9), request_id: None, cache_salt: None });
        String::from_utf8(fill(&whole.body, &mark, contents).expect("content for every mark"))
            .expect("UTF-8")
    }

    fn content(media_type: &str) -> Content {
        Content { media_type: media_type.to_owned(), bytes: PNG.to_vec() }
    }

    #[test]
    fn content_stands_where_its_url_stood() {
        let body = r#"{"model":"m","messages":[{"role":"user","content":[
            {"type":"image_url","image_url":{"url":"https://good.example/1","detail":"low"}},
            {"type":"text","text":"https://good.example/1"},
            {"type":"image_url","image_url":{"url":"https://good.example/2"}}]}]}"#;
        let out = written(
            Operation::ChatCompletions,
            body,
            &[content("image/png"), content("image/webp")],
        );
        let packed = STANDARD.encode(PNG);
        assert!(
            out.contains(&format!(r#"{{"url":"data:image/png;base64,{packed}","detail":"low"}}"#)),
            "{out}"
        );
        assert!(out.contains(&format!(r#"{{"url":"data:image/webp;base64,{packed}"}}"#)), "{out}");
        assert!(out.contains(r#""text":"https://good.example/1""#), "{out}");
    }

    #[test]
    fn anthropic_sources_become_base64() {
        let body = r#"{"model":"m","max_tokens":5,"messages":[{"role":"user","content":[
            {"type":"image","source":{"type":"url","url":"https://good.example/1"}}]}]}"#;
        let out = written(Operation::Messages, body, &[content("image/png")]);
        let packed = STANDARD.encode(PNG);
        assert!(
            out.contains(&format!(
                r#""source":{{"type":"base64","media_type":"image/png","data":"{packed}"}}"#
            )),
            "{out}"
        );
    }

    #[test]
    fn a_mark_without_content_is_not_sent() {
        let mark = Placeholder::new([7; 16]);
        let body = format!("{}d0001", mark.0);
        assert_eq!(fill(body.as_bytes(), &mark, &[content("image/png")]), None);
        assert_eq!(fill(mark.0.as_bytes(), &mark, &[content("image/png")]), None);
        assert_eq!(fill(b"{}", &mark, &[]), Some(b"{}".to_vec()));
    }
}
