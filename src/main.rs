//! The binary: words in, exit code out.

fn main() {}
