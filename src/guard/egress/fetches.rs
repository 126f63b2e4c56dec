//! Content that the gateway itself fetches and puts into a request.

use crate::guard::egress::policy::Controlled;
use crate::model::ExternalReference;
use crate::model::inline::Placeholder;

/// The fetches of one request. They begin after the admission is recorded.
pub struct Fetches {
    /// The mark that is in the body in the place of each piece of content.
    pub mark: Placeholder,
    /// The content, in the order of the marks.
    pub wanted: Vec<WantedContent>,
}

/// One piece of content to fetch.
#[derive(Clone)]
pub struct WantedContent {
    /// Where the request names it, and its URL.
    pub reach: ExternalReference,
    /// The destination, which the egress policy has allowed.
    pub controlled: Controlled,
}
