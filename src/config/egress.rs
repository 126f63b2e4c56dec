//! Which endpoints are controlled, and how classes keep the doors of egress.

use super::section::Section;
use crate::guard::egress::judge::{Entry, Lists};
use crate::guard::settings::{Answers, Door, Reply, Requests};

/// The lists, each for its use.
pub(super) fn lists(section: Section<'_>) -> Lists {
    let entries = |key| {
        let mut entries: Vec<Entry> = Vec::new();
        for text in section.texts(key) {
            match text.parse() {
                Ok(entry) => entries.push(entry),
                Err(why) => {
                    section.fault(
                        key,
                        format!("{text:?} is not HOST, HOST:PORT or *.SUFFIX:PORT (without a port 443 is meant): {why}"),
                    );
                }
            }
        }
        entries
    };
    let lists = Lists { media: entries("media"), links: entries("links"), ..Lists::default() };
    section.not_enforced(&["tunnel", "networks"]);
    section.close();
    lists
}

/// What becomes of what an answer would make its reader reach.
pub(super) fn answers(section: Section<'_>) -> Answers {
    let reply = |key| {
        let replies = [("report", Reply::Report), ("strip", Reply::Strip), ("block", Reply::Block)];
        super::bind::choice(&section, key, &replies).unwrap_or_default()
    };
    let answers = Answers { fetched: reply("fetched"), clicked: reply("clicked") };
    section.close();
    answers
}

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
