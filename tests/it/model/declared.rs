//! Bodies at declared routes: what is judged, and what the server gets.

use std::sync::Arc;

use token_shield::config::bytes;
use token_shield::model::declared::{Declaration, DeclaredRoute, declarations, parse};
use token_shield::model::{
    BodyChanges, BodyRules, ModelCall, Profile, ReferenceKind, UnknownFields,
};
use token_shield::refusal::{Code, Refusal};

/// The built-in route of that name.
fn route(name: &str) -> Arc<DeclaredRoute> {
    for declaration in &Declaration::ALL {
        for route in declarations(declaration.text, bytes).expect("a declaration") {
            if route.name == name {
                return route;
            }
        }
    }
    panic!("no route {name}");
}

/// The call of a body.
fn call<'b>(name: &str, body: &'b [u8], media_type: &str) -> Result<ModelCall<'b>, Refusal> {
    let profile = Profile::named("vllm").expect("a profile");
    let rules = BodyRules {
        profile: &profile,
        unknown_fields: UnknownFields::Drop,
        model_upstream: "org/served",
    };
    parse(&route(name), body, media_type)?.understand(&rules, "asked".to_owned())
}

/// What the server gets of a JSON body.
#[track_caller]
fn writes(name: &str, body: &str, cap: Option<u64>, expect: &str) {
    let call = call(name, body.as_bytes(), "application/json").expect("a call");
    let written =
        call.write(&BodyChanges { output_tokens: cap, request_id: None, cache_salt: None });
    assert_eq!(String::from_utf8_lossy(&written.body), expect);
}

/// The paths of the references in a JSON body.
#[track_caller]
fn refers(name: &str, body: &str, expect: &[&str]) {
    let call = call(name, body.as_bytes(), "application/json").expect("a call");
    let mut paths = Vec::new();
    for reach in call.external_references() {
        assert_eq!(reach.kind, ReferenceKind::Media);
        paths.push(reach.path.as_str());
    }
    assert_eq!(paths, expect, "{body}");
}

#[test]
fn every_built_in_declaration_is_valid() {
    let mut names = Vec::new();
    for declaration in &Declaration::ALL {
        for route in declarations(declaration.text, bytes).expect(declaration.name) {
            assert!(!names.contains(&route.name), "{} is there twice", route.name);
            names.push(route.name);
        }
    }
    assert!(names.len() > 20, "{names:?}");
}

#[test]
fn every_url_is_found_at_any_depth() {
    refers(
        "kserve.infer",
        r#"{"a":{"b":[1,{"c":"https://x.example"}]},"d":["ftp://x.example","x"],"e":" //y/z"}"#,
        &["a.b[1].c", "d[0]", "e"],
    );
    refers("audio.speech", r#"{"model":"m","input":"https://x.example","voice":"alloy"}"#, &[]);
    refers("audio.speech", r#"{"model":"m","voice":{"input":"a","id":"http:x"}}"#, &["voice.id"]);
}

#[test]
fn a_schema_may_name_its_own_standard() {
    let with = |schema: &str| format!(r#"{{"prompt":"a","json_schema":{schema}}}"#);
    let plain = r#"{"$schema":"https://json-schema.org/draft/2020-12/schema","$id":"https://a.b"}"#;
    refers("llama.completion", &with(plain), &[]);
    let grammar = format!(r#"{{"parameters":{{"grammar":{{"type":"json","value":{plain}}}}}}}"#);
    refers("tgi.generate", &grammar, &[]);
    let out = with(r##"{"properties":{"a":{"$ref":"https://x.example/s.json"}}}"##);
    let refused = call("llama.completion", out.as_bytes(), "application/json");
    assert_eq!(refused.err().map(|no| no.code), Some(Code::FieldInvalid));
}

#[test]
fn inline_content_must_be_content() {
    let with =
        |content: &str| format!(r#"{{"model":"m","image":"data:image/png;base64,{content}"}}"#);
    refers("images.generations", &with("iVBORw0KGgoAAAANSUhEUgAA"), &[]);
    // `#EXTM3U` begins a playlist, which makes a decoder fetch.
    for content in ["I0VYVE0zVQojRVhUSU5GOjEsCg==", "not base64", ""] {
        let body = with(content);
        let refused = call("images.generations", body.as_bytes(), "application/json");
        assert_eq!(refused.err().map(|no| no.code), Some(Code::FieldInvalid), "{body}");
    }
}

#[test]
fn one_cap_is_written() {
    let generate = "triton.generate";
    writes(generate, r#"{"text_input":"a"}"#, None, r#"{"text_input":"a"}"#);
    writes(generate, r#"{"text_input":"a"}"#, Some(9), r#"{"text_input":"a","max_tokens":9}"#);
    writes(
        generate,
        r#"{"parameters":{"max_tokens":500,"k":1}}"#,
        Some(9),
        r#"{"parameters":{"k":1},"max_tokens":9}"#,
    );
    writes(generate, r#"{"max_tokens":5}"#, Some(9), r#"{"max_tokens":5}"#);
    writes(
        "tgi.generate",
        r#"{"inputs":"a","parameters":{"max_new_tokens":-1,"seed":3}}"#,
        Some(9),
        r#"{"inputs":"a","parameters":{"seed":3,"max_new_tokens":9}}"#,
    );
    for body in [r#"{"max_tokens":5,"parameters":{"max_tokens":5}}"#, r#"{"max_tokens":"5"}"#] {
        let refused = call(generate, body.as_bytes(), "application/json");
        assert_eq!(refused.err().map(|no| no.code), Some(Code::FieldInvalid), "{body}");
    }
    let many = call(generate, br#"{"text_input":["a","b"],"n":3}"#, "application/json");
    assert_eq!(many.expect("a call").choices(), 6);
}

#[test]
fn the_server_gets_its_own_name_of_the_model() {
    writes(
        "audio.speech",
        r#"{"input":"a","model":"m"}"#,
        None,
        r#"{"input":"a","model":"org/served"}"#,
    );
    let call = call("kserve.infer", b"{}", "application/json").expect("a call");
    let changes = BodyChanges { output_tokens: None, request_id: None, cache_salt: None };
    let target = call.write(&changes).target.expect("a target");
    assert_eq!(target.path, "/v2/models/org%2Fserved/infer");
}

#[test]
fn no_other_field_is_read_as_the_model() {
    for body in [r#"{"model":"m","Model":"other"}"#, "{\"MODEL\":\"m\",\"input\":\"a\"}"] {
        let refused = call("audio.speech", body.as_bytes(), "application/json");
        assert_eq!(refused.err().map(|no| no.code), Some(Code::FieldNotAllowed), "{body}");
    }
    for (head, code) in [
        ("name=\"model\"; filename=\"m\"", Code::FormInvalid),
        ("name=\"Model\"", Code::FieldNotAllowed),
    ] {
        let body = format!("--b\r\nContent-Disposition: form-data; {head}\r\n\r\nm\r\n--b--");
        let media_type = "multipart/form-data; boundary=b";
        let refused = call("audio.transcriptions", body.as_bytes(), media_type);
        assert_eq!(refused.err().map(|no| no.code), Some(code), "{head}");
    }
}

#[test]
fn a_body_of_bytes_is_no_json() {
    let declaration = |types: &str| {
        let text = format!(
            "[[route]]\nname = \"a\"\npath = \"/a\"\nbody = \"bytes\"\ntypes = [{types}]\n\
            model = \"fixed\"\nscope = \"inference.tensors\"\nanswers = [\"json\"]\n"
        );
        declarations(&text, bytes).is_ok()
    };
    assert!(declaration(r#""audio/wav""#));
    assert!(!declaration(r#""application/json""#) && !declaration("") && !declaration(r#""a b""#));
}

#[test]
fn a_file_in_a_form_must_be_content() {
    let form = |content: &str| {
        format!(
            "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b\r\n\
            Content-Disposition: form-data; name=\"file\"; filename=\"a.mp3\"\r\n\r\n{content}\r\n\
            --b--\r\n"
        )
    };
    let media_type = "multipart/form-data; boundary=b";
    for (content, passes) in [
        ("RIFF\0\0\0\0WAVEfmt ", true),
        ("OggS\0\u{2}", true),
        ("#EXTM3U\nhttps://x.example/a.ts", false),
        ("<svg xmlns=\"http://www.w3.org/2000/svg\">", false),
        ("ID3\u{4}\0\0\0\0\0\u{5}12345#EXTM3U\n", false),
    ] {
        let body = form(content);
        let got = call("audio.transcriptions", body.as_bytes(), media_type);
        assert_eq!(got.is_ok(), passes, "{content:?}");
    }
}
