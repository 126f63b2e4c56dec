//! The labels of inline images. Many clients label an image by the name of its file, and model
//! servers read its first bytes. So an image gets the label of what it is.

use super::kind::{Medium, Rule, StringKind};
use super::profile::Shape;
use super::signature;
use crate::json::Object;

/// What the label of inline content says of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Label {
    /// What it is.
    Fits,
    /// Another listed type of image, which it is not. This is the type that it has.
    Other(String),
    /// A type that it does not begin as.
    Wrong(String),
}

impl Label {
    /// The label of base64 content, among the types that may be there.
    pub(super) fn of(label: &str, types: &[String], content: &str) -> Self {
        if signature::fits(label, content) {
            return Self::Fits;
        }
        // Only raster images are relabelled. A document or a container under the label of an image
        // is refused, because its decoder might fetch.
        let is_image = |name: &&String| name.starts_with("image/");
        match types.iter().filter(is_image).find(|name| signature::fits(name, content)) {
            Some(actual) if label.starts_with("image/") => Self::Other(actual.clone()),
            Some(_) | None => Self::Wrong(label.to_owned()),
        }
    }

    /// The label of the content in an object with the members `media_type` and `data` (Anthropic's
    /// sources); [`Label::Fits`] for every other object.
    pub(super) fn of_source(shape: &Shape, object: &Object<'_>) -> Self {
        let (Some(Rule::Pass(label)), Some(Rule::Pass(data))) =
            (shape.rule("media_type"), shape.rule("data"))
        else {
            return Self::Fits;
        };
        let (Some(StringKind::OneOf(types)), Some(StringKind::Media(Medium::Base64))) =
            (&label.string, &data.string)
        else {
            return Self::Fits;
        };
        match (object.text("media_type"), object.text("data")) {
            (Some(label), Some(content)) if signature::is_base64(content) => {
                Self::of(label, types, content)
            }
            // Another value is an external reference, or it is refused for its type.
            _ => Self::Fits,
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn an_image_gets_the_label_of_what_it_is() {
        let types = ["image/png", "image/jpeg", "application/pdf"].map(str::to_owned);
        let check = |label: &str, bytes: &[u8], expect: Label| {
            assert_eq!(Label::of(label, &types, &STANDARD.encode(bytes)), expect, "{label}");
        };
        let (png, jpeg) = (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xd8\xff\xe0\0\x10JFIF");
        check("image/png", png, Label::Fits);
        check("image/png", jpeg, Label::Other("image/jpeg".to_owned()));
        check("image/jpeg", png, Label::Other("image/png".to_owned()));
        // No other content becomes an image, and no image another type.
        check("image/png", b"%PDF-1.7\n%", Label::Wrong("image/png".to_owned()));
        check("image/png", b"GIF89a\x01\0", Label::Wrong("image/png".to_owned()));
        check("image/png", b"<svg xmlns=\"x\">", Label::Wrong("image/png".to_owned()));
        check("application/pdf", png, Label::Wrong("application/pdf".to_owned()));
    }
}
