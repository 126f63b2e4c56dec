//! The section `egress`: the controlled endpoints, and the filters of each class.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use toml::de::DeTable;

use super::section::Section;
use super::values::{choice, networks};
use crate::guard::egress::call::Pattern;
use crate::guard::egress::policy::{ListEntry, Lists};
use crate::guard::settings::{
    Answers, FetchSettings, RequestFilterAction, Requests, ResponseFilterAction, ToolCallAction,
    Unchanged,
};

/// The port of resolvers (RFC 1035, section 4.2).
const DNS_PORT: u16 = 53;
/// The maximum number of contents that one request may need. A record lists no more.
const COUNT_MAX: usize = 16;

/// The lists by use, the settings for fetches, and the tools with which agents fetch URLs.
pub(super) fn lists<'t>(
    section: Section<'t>,
    base: &Path,
    empty: &'t DeTable<'t>,
) -> (Lists, FetchSettings, Vec<Pattern>) {
    let networks = networks(&section, "networks");
    let lists = Lists {
        media: entries(&section, "media"),
        links: entries(&section, "links"),
        tunnel: entries(&section, "tunnel"),
        networks,
    };
    let fetch = fetch(section.table("fetch", empty), base);
    let mut tools = Vec::new();
    for text in section.texts("fetch_tools") {
        match Pattern::read(&text) {
            Some(pattern) => tools.push(pattern),
            None => section.fault(
                "fetch_tools",
                format!("{text:?} is neither the name of a tool nor a prefix with * at its end"),
            ),
        }
    }
    // Only calls of these tools are checked against the tunnel list.
    if tools.is_empty() && !lists.tunnel.is_empty() {
        section
            .fault("tunnel", "has no effect without fetch_tools; a rule without effect is refused");
    }
    section.close();
    (lists, fetch, tools)
}

/// The entries of one list. Each invalid one is a fault.
fn entries(section: &Section<'_>, key: &'static str) -> Vec<ListEntry> {
    let mut entries = Vec::new();
    for text in section.texts(key) {
        match text.parse() {
            Ok(entry) => entries.push(entry),
            Err(why) => {
                section.fault(
                    key,
                    format!(
                        "{text:?} is not HOST, HOST:PORT or *.SUFFIX:PORT (the default port is \
                            443): {why}"
                    ),
                );
            }
        }
    }
    entries
}

/// The address of a resolver. Without a port it has the one of DNS.
fn resolver(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let ip: IpAddr = text.parse().ok()?;
    Some(SocketAddr::new(ip, DNS_PORT))
}

/// Reads `egress.fetch`, with the default values.
fn fetch(section: Section<'_>, base: &Path) -> FetchSettings {
    let fetch = FetchSettings {
        bytes_max: section.bytes_or("bytes", 8 << 20),
        count_max: section.count_or("count", 16),
        time_max: section.seconds_or("time", 10),
        resolver: section.parsed(
            "resolver",
            "an address, such as \"127.0.0.1\" or \"127.0.0.1:5353\"",
            resolver,
        ),
        ca: section.path("ca", base),
    };
    if fetch.count_max > COUNT_MAX {
        section.fault("count", format!("must be at most {COUNT_MAX}"));
    }
    section.close();
    fetch
}

/// Who reads the answers of a class.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// A person, in a Markdown renderer.
    Markdown,
    /// A program.
    Program,
}

/// The actions of a class's response filter.
pub(super) fn answers(section: Section<'_>) -> Answers {
    let readers = [("markdown", Reader::Markdown), ("program", Reader::Program)];
    let reader = choice(&section, "reader", &readers).unwrap_or(Reader::Markdown);
    let unchanged = [("report", Unchanged::Report), ("block", Unchanged::Block)];
    let tool_calls = [
        ("report", ToolCallAction::Report),
        ("replace", ToolCallAction::Replace),
        ("block", ToolCallAction::Block),
    ];
    let default = Answers::default();
    let (fetched, clicked) = match reader {
        Reader::Markdown => {
            let actions = [
                ("report", ResponseFilterAction::Report),
                ("strip", ResponseFilterAction::Strip),
                ("block", ResponseFilterAction::Block),
            ];
            (choice(&section, "fetched", &actions), choice(&section, "clicked", &actions))
        }
        Reader::Program => {
            // Nothing that a program reads is changed, so `strip` is no action here.
            let actions =
                [("report", ResponseFilterAction::Report), ("block", ResponseFilterAction::Block)];
            let report = ResponseFilterAction::Report;
            let action = |key| Some(choice(&section, key, &actions).unwrap_or(report));
            (action("fetched"), action("clicked"))
        }
    };
    let answers = Answers {
        fetched: fetched.unwrap_or(default.fetched),
        clicked: clicked.unwrap_or(default.clicked),
        structured: choice(&section, "structured", &unchanged).unwrap_or(default.structured),
        tool_calls: choice(&section, "tool_calls", &tool_calls).unwrap_or(default.tool_calls),
    };
    section.close();
    answers
}

/// The actions of a class's request filter.
pub(super) fn requests(section: Section<'_>) -> Requests {
    let content = [
        ("block", RequestFilterAction::Block),
        ("strip", RequestFilterAction::Strip),
        ("inline", RequestFilterAction::Inline),
    ];
    let tools = [("block", RequestFilterAction::Block), ("strip", RequestFilterAction::Strip)];
    let requests = Requests {
        media: choice(&section, "media", &content).unwrap_or_default(),
        hosted_tools: choice(&section, "hosted_tools", &tools).unwrap_or_default(),
        mcp: choice(&section, "mcp", &tools).unwrap_or_default(),
    };
    section.close();
    requests
}
