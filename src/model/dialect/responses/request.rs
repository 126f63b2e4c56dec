//! What the gateway changes in a request before its fields are validated.

use crate::json::{Object, Value};

/// The beginning of the type of a tool for search in the web.
const SEARCH: &str = "web_search";

/// Removes three things, and adds their paths to `dropped`:
///
/// - `store: true`. The gateway keeps no answers, and the server must not keep them either.
/// - `background: false`, which is the default. Some servers do not know the field.
/// - A tool for search that the caller itself keeps from the web (`external_web_access: false`), as
///   Codex sends it. Only OpenAI's own service has the index that such a tool searches.
pub(in crate::model) fn prepare(object: &mut Object<'_>, dropped: &mut Vec<String>) {
    if object.is_true("store") {
        object.set("store", Value::Bool(false));
        dropped.push("store".to_owned());
    }
    if matches!(object.get("background"), Some(Value::Bool(false))) {
        object.remove("background");
        dropped.push("background".to_owned());
    }
    let Some(Value::Array(tools)) = object.get_mut("tools") else { return };
    let mut place = 0_usize;
    let before = tools.len();
    tools.retain(|tool| {
        let goes = is_kept_from_web(tool);
        if goes {
            dropped.push(format!("tools[{place}]"));
        }
        place += 1;
        !goes
    });
    // Servers refuse an empty list of tools, and a choice without tools.
    if tools.is_empty() && before > 0 {
        for key in ["tools", "parallel_tool_calls"] {
            object.remove(key);
        }
        if matches!(object.text("tool_choice"), Some("auto" | "none")) {
            object.remove("tool_choice");
        }
    }
}

/// Whether a tool searches in the web, and the caller has ruled out access to it.
fn is_kept_from_web(tool: &Value<'_>) -> bool {
    let Some(tool) = tool.as_object() else { return false };
    tool.text("type").is_some_and(|kind| kind.starts_with(SEARCH))
        && matches!(tool.get("external_web_access"), Some(Value::Bool(false)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{self, Limits};

    #[track_caller]
    fn check(body: &str, left: &str, removed: &[&str]) {
        let Ok(Value::Object(mut object)) = json::parse(body.as_bytes(), &Limits::deep(8)) else {
            panic!("{body}");
        };
        let mut dropped = Vec::new();
        prepare(&mut object, &mut dropped);
        let mut out = Vec::new();
        json::write(&Value::Object(object), &mut out);
        assert_eq!(String::from_utf8(out).expect("UTF-8"), left);
        assert_eq!(dropped, removed);
    }

    #[test]
    fn only_a_search_without_the_web_goes() {
        check(r#"{"store":true}"#, r#"{"store":false}"#, &["store"]);
        check(r#"{"background":false}"#, "{}", &["background"]);
        check(r#"{"background":true}"#, r#"{"background":true}"#, &[]);
        check(r#"{"store":false}"#, r#"{"store":false}"#, &[]);
        check(
            concat!(
                r#"{"tools":[{"type":"function","name":"f"},"#,
                r#"{"type":"web_search","external_web_access":false}],"tool_choice":"auto"}"#
            ),
            r#"{"tools":[{"type":"function","name":"f"}],"tool_choice":"auto"}"#,
            &["tools[1]"],
        );
        check(
            r#"{"tools":[{"type":"web_search","external_web_access":false}],"tool_choice":"auto"}"#,
            "{}",
            &["tools[0]"],
        );
        for kept in [
            r#"{"tools":[{"type":"web_search"}]}"#,
            r#"{"tools":[{"type":"web_search","external_web_access":true}]}"#,
            r#"{"tools":[{"type":"mcp","external_web_access":false}]}"#,
            r#"{"tools":[]}"#,
        ] {
            check(kept, kept, &[]);
        }
    }
}
