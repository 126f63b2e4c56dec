//! Routes that the operator declares: paths of inference servers outside of the dialects, such as
//! audio, images and `tokenize`.
//!
//! A declaration says what the gateway must know of a path: its method, the form of its body, where
//! the model's name is, and which strings are prompts. The gateway knows no more of such a body. So
//! it does not check the fields one by one. It parses the body strictly, judges every string that
//! is a URL, and writes the body anew.

mod body;
pub(super) mod content;
mod form;
mod pattern;
mod read;
mod references;
mod route;
pub(super) mod write;

pub use body::{ParsedDeclared, parse};
pub use pattern::PathPattern;
pub use read::{Declaration, declarations};
pub use route::{AnswerKind, DeclaredRoute, ModelPlace, PassedType, RequestBody};
pub use write::DeclaredTarget;
