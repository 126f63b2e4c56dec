//! Code that must not compile: a skipped check, an answer before its record, an invented proof.

#[test]
fn shortcuts_do_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
