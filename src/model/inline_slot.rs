//! The slots of a request where content can replace a URL.

/// The maximum number of characters before the content of a `data:` URL.
const LABEL_MAX: usize = 64;

/// A slot in a request where content can replace a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InlineSlot {
    /// The form of the content.
    pub(super) form: SlotForm,
    /// The accepted media types.
    pub(super) types: Vec<String>,
    /// The maximum number of content bytes.
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
    /// A slot for content of these media types. The base64 text of the content has at most
    /// `chars_max` characters.
    ///
    /// `None` if none of the types can be recognised by the first bytes of the content.
    pub(super) fn new(form: SlotForm, types: &[String], chars_max: usize) -> Option<Self> {
        // Plain text has no signature, so it cannot be recognised.
        let types: Vec<String> =
            types.iter().filter(|known| *known != "text/plain").cloned().collect();
        let bytes_max = chars_max.saturating_sub(LABEL_MAX) / 4 * 3;
        (!types.is_empty()).then_some(Self { form, types, bytes_max })
    }
}
