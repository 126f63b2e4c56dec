//! Tests of `lines`.

use super::*;

/// For each line whether it is fenced when it begins.
#[track_caller]
fn check(lines: &[(&str, bool)]) {
    let mut at = Lines::new(true);
    for (line, fenced) in lines {
        assert_eq!(at.fenced(), *fenced, "{line:?} of {lines:?}");
        line.chars().for_each(|next| _ = at.take(next));
        at.take('\n');
    }
}

#[test]
fn fences_that_every_reader_sees() {
    check(&[
        ("text", false),
        ("```rust", false),
        ("let x;", true),
        ("```", true),
        ("after", false),
    ]);
    check(&[("~~~ a-b", false), ("```", true), ("~~~~", true), ("after", false)]);
    check(&[
        ("$$a$$ \\(b\\) $5", false),
        ("```c++", false),
        ("x", true),
        ("$$", true),
        ("```", true),
        ("after", false),
    ]);
    check(&[("````", false), ("```", true), ("````  ", true), ("after", false)]);
    check(&[
        ("```", false),
        ("a", true),
        ("```  ", true),
        ("after", false),
        ("```c#", false),
        ("b", true),
    ]);
    check(&[
        ("1. do", false),
        ("", false),
        ("   ```sh", false),
        ("   x", false),
        ("   ```", false),
        ("```", false),
        ("x", true),
    ]);
    check(&[
        ("- a", false),
        ("  ```", false),
        ("  x", false),
        ("  ```", false),
        ("", false),
        ("```", false),
        ("x", true),
    ]);
    check(&[
        ("- a", false),
        ("  ```", false),
        ("  ```", false),
        ("", false),
        ("```", false),
        ("x", false),
    ]);
    check(&[("```", false), ("```", true), ("x", false), ("```", false), ("y", false)]);
    check(&[("```", false), ("x", true), ("````", true), ("x", false)]);
    check(&[("~~~ a`b`", false), ("x", false)]);
}

#[test]
fn where_readers_differ_nothing_is_fenced() {
    check(&[("  ```", false), ("x", false), ("```", false), ("x", false)]);
    check(&[("``` a`b", false), ("x", false), ("```", false), ("x", false)]);
    check(&[("<div>", false), ("```", false), ("x", false)]);
    check(&[("> ```", false), ("```", false), ("x", false)]);
    check(&[("- a", false), (" ```", false), ("```", false), ("x", false)]);
    check(&[("- a", false), ("b", false), ("  ```", false), ("```", false), ("x", false)]);
    check(&[
        ("```", false),
        ("x", true),
        ("``` x", true),
        ("y", false),
        ("```", false),
        ("z", false),
    ]);
    check(&[("```", false), ("x", true), ("    ```", true), ("y", false)]);
    check(&[("```", false), ("x", true), ("```~", true), ("y", false)]);
    check(&[("```", false), ("x", true), ("> ```", true), ("y", false)]);
    for front in ["a $$ b", "so \\(a", "a \\[", "$$", "$"] {
        check(&[(front, false), ("```", false), ("x", false)]);
    }
    for open in [
        "```m&#101;rmaid",
        "~~~mermaid `",
        "```js title=x",
        "``` {.js}",
        "```{note}",
        "```vega-lite",
        "```\\js",
    ] {
        check(&[(open, false), ("x", false)]);
    }
}
