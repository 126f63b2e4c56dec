//! The house rules that a compiler does not check: floors, first lines, measures.
#![allow(clippy::expect_used, reason = "a test that cannot read the tree fails")]
#![allow(clippy::print_stdout, reason = "the table of figures is printed")]
#![allow(clippy::wildcard_enum_match_arm, reason = "the syntax of Rust grows")]

mod chains;
mod closures;
mod comments;
mod cycles;
mod figure;
mod floors;
mod functions;
mod imports;
mod lexer;
mod limits;
mod names;
mod prose;
mod sentences;
mod sizes;
mod table;
mod tree;
mod widths;
mod words;
