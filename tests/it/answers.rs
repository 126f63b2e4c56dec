//! The response filter in a running gateway: tool calls, and texts that continue the caller's.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};

use crate::harness::Gateway;

const CLASS: &str = "rpm = 6000\nburst = 5000";
/// A class whose refused tool calls end an answer with an error.
const STRICT: &str = "rpm = 6000\nburst = 5000\nanswers = { tool_calls = \"block\" }";

/// An upstream that answers each request with the same document.
fn upstream(body: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut buffer = [0; 65_536];
                while stream.read(&mut buffer).is_ok_and(|read| read > 0) {
                    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
                    let length = body.len();
                    let answer = format!("{head}content-length: {length}\r\n\r\n{body}");
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// A gateway with the model `says`, and the tool `fetch` that may reach `good.example`.
fn gateway(body: &'static str) -> Gateway {
    gateway_of(CLASS, body)
}

/// The same with these keys of the default class.
fn gateway_of(class: &str, body: &'static str) -> Gateway {
    let address = upstream(body);
    let more = format!(
        "[[upstream]]\nname = \"says\"\nurl = \"http://{address}\"\n[[model]]\nname = \"says\"\n\
            route = [\"says\"]\n[egress]\ntunnel = [\"good.example\"]\nfetch_tools = [\"fetch\"]\n"
    );
    Gateway::with(class, &more)
}

/// The status of the answer to a chat.
fn asked(gateway: &Gateway, body: &str) -> (u16, String) {
    let answer = gateway.send(&gateway.chat(body));
    (answer.status, answer.body)
}

const ASK: &str = r#"{"model":"says","messages":[{"role":"user","content":"hello"}]}"#;

#[test]
fn a_call_of_a_named_tool_is_judged() {
    let call = |host: &str, tool: &str| -> &'static str {
        let call = format!(
            concat!(
                r#"{{"id":"x","object":"chat.completion","choices":[{{"index":0,"message":"#,
                r#"{{"role":"assistant","content":null,"tool_calls":[{{"id":"c","#,
                r#""type":"function","function":{{"name":"{tool}","#,
                r#""arguments":"{{\"url\":\"https://{host}/\"}}"}}}}]}},"#,
                r#""finish_reason":"tool_calls"}}]}}"#
            ),
            tool = tool,
            host = host,
        );
        Box::leak(call.into_boxed_str())
    };
    for (class, host, tool, status) in [
        (CLASS, "good.example", "fetch", 200),
        (CLASS, "evil.example", "fetch", 200),
        (CLASS, "evil.example", "write", 200),
        (STRICT, "good.example", "fetch", 200),
        (STRICT, "evil.example", "fetch", 403),
        (STRICT, "evil.example", "write", 200),
    ] {
        let gateway = gateway_of(class, call(host, tool));
        let (found, body) = asked(&gateway, ASK);
        assert_eq!(found, status, "{host} {tool}: {body}");
        let refused = (host, tool) == ("evil.example", "fetch");
        assert_eq!(body.contains("answer-uncontrolled"), refused, "{body}");
        assert_eq!(body.contains(tool) && body.contains(r#""tool_calls""#), !refused, "{body}");
        assert_eq!(body.contains("may reach good.example:443]"), refused && status == 200);
        // The server sends a document where a stream was asked for.
        let (_, body) = asked(&gateway, &ASK.replacen('{', r#"{"stream":true,"#, 1));
        assert_eq!(body.contains("may reach good.example:443]"), refused && status == 200);
        assert_eq!(body.contains("[DONE]"), status == 200, "{body}");
    }
}

#[test]
fn the_parts_of_a_whole_answer_are_read_joined_and_apart() {
    // For a client that shows each part alone, the second one is in no fence. For a client that
    // joins them, the third and the fourth one are one image.
    let gateway = gateway(concat!(
        r#"{"id":"x","object":"chat.completion","choices":[{"index":0,"message":"#,
        r#"{"role":"assistant","content":[{"type":"text","text":"```\n"},"#,
        r#"{"type":"text","text":"![a](https://evil.example/b)\n```\n"},"#,
        r#"{"type":"text","text":"![c](https:/"},{"type":"text","text":"/evil.example/d)"}]},"#,
        r#""finish_reason":"stop"}]}"#
    ));
    let (status, body) = asked(&gateway, ASK);
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("![a](#link-removed:https://evil.example/b)"), "{body}");
    assert!(
        body.contains("![c](https:/") && body.contains("#link-removed:/evil.example"),
        "{body}"
    );
}

#[test]
fn an_answer_is_read_after_the_text_that_it_continues() {
    let gateway = Gateway::with(CLASS, "");
    let image = r"![a](https://evil.example/x)";
    let ask = |prefill: &str| {
        let body = format!(
            concat!(
                r#"{{"model":"echo","messages":[{{"role":"user","content":"{image}"}},"#,
                r#"{{"role":"assistant","content":"{prefill}"}}]}}"#
            ),
            image = image,
            prefill = prefill,
        );
        asked(&gateway, &body).1.contains("#link-removed:")
    };
    // A fence is open at the end of the text.
    assert!(!ask(r"```\n"));
    assert!(ask(r"```\na\n```\n") && ask("text "));
    // A definition in the text has an effect on the answer.
    let body = concat!(
        r#"{"model":"echo","messages":[{"role":"user","content":"![a][b]"},"#,
        r#"{"role":"assistant","content":"[b]: https://evil.example/x\n\n"}]}"#
    );
    assert!(asked(&gateway, body).1.contains("![a][#link-removed:b]"));
}

#[test]
fn a_declared_form_is_never_changed() {
    let gateway = Gateway::with(CLASS, "");
    let ask = |more: &str| {
        let body = format!(
            concat!(
                r#"{{"model":"echo","messages":[{{"role":"user","#,
                r#""content":"![a](https://evil.example/x)"}}]{more}}}"#
            ),
            more = more,
        );
        asked(&gateway, &body).1.contains("#link-removed:")
    };
    assert!(ask("") && ask(r#","response_format":{"type":"text"}"#));
    assert!(!ask(r#","response_format":{"type":"json_object"}"#));
}

#[test]
fn an_image_at_a_loopback_host_is_uncontrolled_and_a_link_there_is_not() {
    let body = |text: &str| {
        format!(r#"{{"model":"echo","messages":[{{"role":"user","content":"{text}"}}]}}"#)
    };
    let strict = "rpm = 6000\nburst = 5000\nanswers = { clicked = \"strip\" }";
    let gateway = Gateway::with(strict, "");
    let is_marked = |text: &str| asked(&gateway, &body(text)).1.contains("#link-removed:");
    assert!(is_marked("![a](http://127.0.0.1/x)"));
    assert!(!is_marked("[a](http://127.0.0.1/x)"));
    assert!(is_marked("[a](https://evil.example/x)"));
}
