//! How classes keep the doors of egress.

use super::section::Section;
use crate::guard::settings::{Door, Requests};

/// How a class keeps the doors of requests.
pub(super) fn requests(section: Section<'_>) -> Requests {
    let door = |key| {
        let doors = [("block", Door::Block), ("strip", Door::Strip)];
        super::bind::choice(&section, key, &doors).unwrap_or_default()
    };
    let requests = Requests { media: door("media"), hosted_tools: door("hosted_tools"), mcp: door("mcp") };
    section.close();
    requests
}
