//! docs/REFUSALS.md must contain the table of refusals.

use token_shield::refusal::markdown;

#[test]
fn the_document_is_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/REFUSALS.md");
    if std::env::var_os("TOKEN_SHIELD_WRITE_DOCS").is_some() {
        std::fs::write(path, markdown()).expect("write");
    }
    let document = std::fs::read_to_string(path).expect("docs/REFUSALS.md");
    assert_eq!(document, markdown(), "run TOKEN_SHIELD_WRITE_DOCS=1 cargo test --test it refusals");
}
