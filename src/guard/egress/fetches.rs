//! Content that the gateway fetches itself and puts into a request.

use crate::guard::egress::policy::Controlled;
use crate::model::ExternalReference;
use crate::model::inline::Placeholder;

/// What is fetched for a request and put into it, once it is sealed.
pub struct Fetches {
    /// What stands in the body where content will stand.
    pub mark: Placeholder,
    /// The content, in the order of the marks.
    pub wanted: Vec<WantedContent>,
}

/// One piece of content.
#[derive(Clone)]
pub struct WantedContent {
    /// Where it stands, and the URL that it lies behind.
    pub reach: ExternalReference,
    /// Where that leads.
    pub controlled: Controlled,
}
