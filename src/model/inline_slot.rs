//! The places of a request where content can replace a URL.

/// Largest number of characters before the content of a `data:` URL.
const LABEL_MAX: usize = 64;

/// A place in a request where content can replace a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InlineSlot {
    pub(super) form: SlotForm,
    /// The media types that the place can have.
    pub(super) types: Vec<String>,
    /// Largest number of bytes of the content.
    pub(super) bytes_max: usize,
}

/// The form of content in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotForm {
    /// A `data:` URL (RFC 2397) in base64.
    DataUrl,
    /// Anthropic's `source` of the type `base64`.
    Source,
}

impl InlineSlot {
    /// A slot for content of these media types whose base64 has at most `chars_max` characters.
    ///
    /// `None` if none of the types can be recognised by the first bytes of a content.
    pub(super) fn new(form: SlotForm, types: &[String], chars_max: usize) -> Option<Self> {
        let types: Vec<String> =
            types.iter().filter(|known| *known != "text/plain").cloned().collect();
        let bytes_max = chars_max.saturating_sub(LABEL_MAX) / 4 * 3;
        (!types.is_empty()).then_some(Self { form, types, bytes_max })
    }
}
