//! Egress control (docs/EGRESS.md): what requests and answers may reach. There is one egress policy
//! for three parts. [`destination`] parses URLs, and [`policy`] decides whether a destination is
//! controlled. The request filter is in [`request`] and the response filter in [`answer`]. The
//! egress proxy for the agents' own connections comes later.

pub mod address;
pub mod answer;
mod authority;
pub mod call;
pub mod destination;
pub mod fetch_quota;
pub mod fetches;
pub mod findings;
pub mod policy;
pub mod rendered;
pub mod request;
