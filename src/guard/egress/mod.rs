//! What may a request make others reach? One judge, three doors (docs/ARCHITECTURE.md). Door 1, requests, stands in
//! [`request`]; the judge of destinations, answers and the agents' own calls come later.

pub mod request;
