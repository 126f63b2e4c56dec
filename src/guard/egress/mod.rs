//! What may a request make others reach? One judge, three doors (docs/EGRESS.md). [`destination`] reads where a URL leads,
//! [`policy`] says whether that is controlled; door 1, requests, stands in [`request`], door 2, answers, in [`answer`]. The agents' own
//! calls come later.

pub mod address;
pub mod answer;
pub mod call;
pub mod destination;
pub mod fetch_quota;
pub mod fetches;
pub mod policy;
pub mod request;
pub mod text;
