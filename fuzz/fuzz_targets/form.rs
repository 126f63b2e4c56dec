//! Forms at declared routes: what is read must be what is written, and what is written must read
//! the same again.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use token_shield::model::declared::{DeclaredRoute, declarations, parse};
use token_shield::model::{BodyChanges, BodyRules, Profile, UnknownFields};

const DECLARATION: &str = r#"
[[route]]
name = "fuzz.form"
path = "/form"
body = "multipart"
model = "field"
scope = "inference.audio"
answers = ["json"]
"#;

/// The forwarded form, and its media type.
fn written(route: &Arc<DeclaredRoute>, body: &[u8], media_type: &str) -> Option<(Vec<u8>, String)> {
    let profile = Profile::named("vllm")?;
    let unknown_fields = UnknownFields::Drop;
    let rules = BodyRules { profile: &profile, unknown_fields, model_upstream: "m" };
    let call = parse(route, body, media_type).ok()?.understand(&rules, "m".to_owned()).ok()?;
    let changes = BodyChanges { output_tokens: None, request_id: None, cache_salt: None };
    let written = call.write(&changes);
    Some((written.body, written.target?.media_type?))
}

fuzz_target!(|body: &[u8]| {
    let routes = declarations(DECLARATION, |_| None).expect("a declaration");
    let Some(route) = routes.first() else { return };
    let framed = [b"--b\r\n", body, b"\r\n--b--\r\n"].concat();
    for received in [body, &framed] {
        let Some((once, media)) = written(route, received, "multipart/form-data; boundary=b")
        else {
            continue;
        };
        let (again, _) = written(route, &once, &media).expect("our own form is read");
        // The boundaries differ, and have the same length.
        assert_eq!(once.len(), again.len());
    }
});
