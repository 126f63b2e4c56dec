//! Shortcuts that must not compile: no question is skipped, no answer unsealed, no proof made up.

#[test]
fn shortcuts_do_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
